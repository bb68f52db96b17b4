"""Files that are whole or absent, and that notice when they were changed.

`atomic` writes any file; `hdf5`, `json` and `tensors` write the three kinds of
artifact, each with a header (what it is, from what it was made) and the sha256 of
its own content, which is checked before the content is parsed.
"""
