"""Writers of small checkpoints, one file per kind of family: published keys, names and packing."""
