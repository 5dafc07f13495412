"""Exact top k of a query vector over a segment's postings.

The score of a document is a sum in float64, over the query's terms in ascending id, of float64(float32 weight) x
impact.
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

from ..posting_layout import BLOCK_BITS as BLOCK_BITS
from ..posting_layout import BLOCK_SIZE as BLOCK_SIZE
from ..posting_layout import KTH_LEVELS as KTH_LEVELS
from ..posting_layout import RANGE_BITS as RANGE_BITS
from ..posting_layout import RANGE_SIZE as RANGE_SIZE
from ..posting_layout import SUPERBLOCK_BITS as SUPERBLOCK_BITS
from ..posting_layout import SUPERBLOCK_BLOCKS as SUPERBLOCK_BLOCKS

# Documents whose TAAT accumulators are filled together: they stay in the second-level cache.
L2_TILE_BITS = 14
L2_TILE = 1 << L2_TILE_BITS
# Documents whose accumulators stay in the first-level cache: long lists are added to so many at a time.
L1_TILE = 2048
