"""Which segments are merged at a commit. FORMAT.md tells it in prose."""

from __future__ import annotations

from collections.abc import Sequence

FACTOR = 4  # so many neighbouring segments of one tier become one
SMALL = 4096  # documents; smaller segments are all of the lowest tier


def tier(documents: int) -> int:
    """0 below 4,096 documents, 1 below 16,384, 2 below 65,536…"""
    found = 0
    while documents >= SMALL:
        documents //= FACTOR
        found += 1
    return found


def to_merge(live: Sequence[int], deleted: Sequence[int]) -> list[range]:
    """The runs of neighbouring segments that become one segment each, ascending; a run of one is written anew.

    ``live``, ``deleted``: documents of each segment that are left, and that are deleted. Tier by tier, from the lowest:
    where a run of segments of at most this tier has FACTOR of just this tier, it is merged. A segment of which no more
    is left than is deleted is written anew.
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
