"""What the stages pass to each other: one module an artifact, checked on load."""
