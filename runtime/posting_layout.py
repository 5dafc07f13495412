"""The sizes that the files of an index and the kernels share. They are part of the format."""

# Documents in a docid range. A document number within its range is a uint16.
RANGE_BITS = 16
RANGE_SIZE = 1 << RANGE_BITS
# Documents in a block, whose scores block-max data bound together: each frequent term has its maximum impact per block.
BLOCK_BITS = 6
BLOCK_SIZE = 1 << BLOCK_BITS
# Blocks in a superblock. They share the base of their posting offsets, so that an offset fits 8 bits.
SUPERBLOCK_BITS = 2
SUPERBLOCK_BLOCKS = 1 << SUPERBLOCK_BITS
# term_impacts[t, j] is the KTH_LEVELS[j]-th largest impact of term t (0 where it has fewer postings).
KTH_LEVELS = (1, 10, 100, 1000)
