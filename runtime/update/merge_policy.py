"""The merge policy: which segments are merged at a commit.

It is a tiered policy over neighbouring segments, so that the order of documents stays. FORMAT.md describes it in prose.
"""

from __future__ import annotations

from collections.abc import Sequence

FACTOR = 4  # this many neighbouring segments of one tier become one segment
SMALL = 4096  # documents; all smaller segments are in the lowest tier


def tier(documents: int) -> int:
    """The tier of a segment: 0 below 4,096 documents, 1 below 16,384, 2 below 65,536, …

    Parameters
    ----------
    documents
        Documents of the segment that are not deleted.

    Returns
    -------
    int
        The tier.
    """
    found = 0
    while documents >= SMALL:
        documents //= FACTOR
        found += 1
    return found


def to_merge(live: Sequence[int], deleted: Sequence[int]) -> list[range]:
    """Choose the segments to merge.

    Tier by tier from the lowest: if a run of neighbouring segments of at most this tier has ``FACTOR`` segments of
    exactly this tier, the run is merged. A segment with at least as many deleted documents as others is rewritten.

    Parameters
    ----------
    live
        Documents of each segment that are not deleted.
    deleted
        Documents of each segment that are deleted.

    Returns
    -------
    list of range
        Runs of segments that become one segment each, ascending. A run of one is rewritten.
    """
    runs = [range(i, i + 1) for i in range(len(live))]
    sizes = list(live)
    level = 0
    while level <= max(map(tier, sizes), default=0):
        start = 0
        while start < len(runs):
            end = start
            while end < len(runs) and tier(sizes[end]) <= level:
                end += 1
            if sum(tier(size) == level for size in sizes[start:end]) >= FACTOR:
                runs[start:end] = [range(runs[start].start, runs[end - 1].stop)]
                sizes[start:end] = [sum(sizes[start:end])]
                end = start + 1
            start = max(end, start + 1)
        level += 1
    return [run for run in runs if len(run) > 1 or deleted[run.start] >= max(1, live[run.start])]
