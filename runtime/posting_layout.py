"""The sizes that the files of an index and the kernels share. They are part of the format."""

# Documents are cut into docid ranges of this size, so that a document within its range is a uint16.
WINDOW_BITS = 16
WINDOW = 1 << WINDOW_BITS
# Documents that block-max data bounds together: a frequent term has its largest impact in every block of so many.
CHUNK_BITS = 6
CHUNK = 1 << CHUNK_BITS
# So many blocks are a superblock. They share the base of their offsets, which keeps an offset in 8 bits.
SPAN_BITS = 2
SPAN = 1 << SPAN_BITS
# term_impacts[t, j] is the KTH_LEVELS[j]-th largest impact of term t (0 where it has fewer postings).
KTH_LEVELS = (1, 10, 100, 1000)
