"""Exact top k over a segment's postings: the kernels, and the call that prepares their workspace."""

# Units are cut into windows of this size, so that a unit within its window is a uint16.
WINDOW_BITS = 16
WINDOW = 1 << WINDOW_BITS
