"""Exact top k of a query vector over a segment's postings.

The score of a unit is a sum in float64, over the query's terms in ascending id, of float64(float32 weight) x impact.
Results are ordered by score descending, then by original unit ascending. There are two ways, and neither approximates a
score: ``visit.py`` scores only the chunks of units whose bound reaches the threshold; ``scan.py`` adds up postings of
all units, but of the most frequent terms only those of units that may still be among the best, and where that is
quicker as bounds of 16 bits, from which the few that can be among the best are scored.
:func:`.visit.visit` decides: it goes over to the scan where too many chunks reach the threshold, or where the segment
has no block-max data.

Numba habits that decide the speed: unsigned indices (no wrap-around test), slices given to small helpers (they
vectorise), accumulators cleared with one fill.
"""

from ..posting_layout import CHUNK as CHUNK
from ..posting_layout import CHUNK_BITS as CHUNK_BITS
from ..posting_layout import KTH_LEVELS as KTH_LEVELS
from ..posting_layout import SPAN as SPAN
from ..posting_layout import SPAN_BITS as SPAN_BITS
from ..posting_layout import WINDOW as WINDOW
from ..posting_layout import WINDOW_BITS as WINDOW_BITS

# The units whose accumulators a scan holds at a time, in the second-level cache.
SHELF_BITS = 14
SHELF = 1 << SHELF_BITS
# The part of them that long lists are added to at a time, in the first-level cache.
STRIP = 2048
