"""Images: what there is, how it is split, read and seen; the demo's pictures."""
