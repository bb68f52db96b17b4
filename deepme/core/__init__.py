"""The mathematics of the method: arrays in, arrays out; no files, no output."""
