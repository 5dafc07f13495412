"""Exact top k of a query vector over a segment's postings.

The score of a document is a sum in float64, over the query's terms in ascending id, of float64(float32 weight) x impact.
Results are ordered by score descending, then by original document number ascending. There are two strategies, and
neither approximates a score. :mod:`.block_max` scores only the blocks whose upper bound reaches the threshold.
:mod:`.taat` adds up the postings of all documents, term at a time. It leaves out the most frequent terms where few
documents need them (:mod:`.maxscore`), and it adds 16-bit upper bounds first where that is faster
(:mod:`.upper_bounds16`). :func:`.block_max.block_max` estimates the cost of both strategies (:mod:`.cost_model`). It
hands over to TAAT where too many blocks reach the threshold, or where the segment has no block-max data.

A *document* of this package is what is scored: a document of the index, or a passage of one. The index calls it a unit.

Numba habits that decide the speed: unsigned indices (no wrap-around test), slices given to small helpers (they
vectorise), accumulators cleared with one fill.
"""

# Documents in a docid range. A document number within its range is a uint16.
RANGE_BITS = 16
RANGE_SIZE = 1 << RANGE_BITS
# Documents in a block, whose scores block-max data bound together: each frequent term has its maximum impact per block.
BLOCK_BITS = 6
BLOCK_SIZE = 1 << BLOCK_BITS
# Blocks in a superblock. They share the base of their posting offsets, so that an offset fits 8 bits.
SUPERBLOCK_BITS = 2
SUPERBLOCK_BLOCKS = 1 << SUPERBLOCK_BITS
# Documents whose TAAT accumulators are filled together: they stay in the second-level cache.
L2_TILE_BITS = 14
L2_TILE = 1 << L2_TILE_BITS
# Documents whose accumulators stay in the first-level cache: long lists are added to so many at a time.
L1_TILE = 2048
