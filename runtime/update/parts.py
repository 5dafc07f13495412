"""What a commit is made of: the segments of the next generation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..filters.formatting import spell_field
from ..index.layout import SegmentEntry, SegmentSettings
from ..index.segment import Segment
from ..manifest import FileEntry
from ..numba_support.arrays import Bools


@dataclass
class Part:
    """A segment of the next generation: its entry and files, which documents are deleted, and if that is news."""

    entry: SegmentEntry
    files: dict[str, FileEntry]
    deleted: Bools | None
    changed: bool

    @property
    def dead(self) -> int:
        """How many documents are deleted."""
        return 0 if self.deleted is None else int(np.count_nonzero(self.deleted))

    @property
    def live(self) -> int:
        """How many documents are left."""
        return self.entry.documents - self.dead


def settings_of(segment: Segment) -> SegmentSettings:
    """The settings of an index of version 1, from the one segment it has."""
    fields = {} if segment.fields is None else segment.fields.counts
    indexed = sorted((counts.number, field) for field, counts in fields.items() if counts.number is not None)
    return SegmentSettings(
        fields=[spell_field(field) for _, field in indexed],
        passages=segment.entry.passages,
        block_max=segment.entry.rows > 0 or not segment.entry.postings,
        reorder=segment.entry.reordered,
    )
