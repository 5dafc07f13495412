"""Exact top k over a segment's postings: the kernels, and the call that prepares their workspace."""

# Units are cut into windows of this size, so that a unit within its window is a uint16.
WINDOW_BITS = 16
WINDOW = 1 << WINDOW_BITS
# The units that block-max data bounds together: each frequent term has its largest impact in every chunk.
CHUNK_BITS = 6
CHUNK = 1 << CHUNK_BITS
# So many chunks share the base of their offsets, which keeps an offset in 8 bits.
SPAN_BITS = 2
SPAN = 1 << SPAN_BITS
