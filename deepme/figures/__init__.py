"""The figures of the paper: arrays in, matplotlib figures out."""
