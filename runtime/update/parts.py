"""The segments of the next generation, which a commit lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..filters.formatting import format_field
from ..index.layout import SegmentEntry, SegmentSettings
from ..index.segment import Segment
from ..manifest import FileEntry
from ..numba_support.arrays import Bools


@dataclass
class Part:
    """A segment of the next generation.

    Attributes
    ----------
    entry
        Its entry in the manifest.
    files
        Its files, as the manifest lists them.
    deleted
        bool ``[documents]``, which of its documents are deleted; None: none.
    changed
        Whether the segment is new, or more of its documents are deleted than in the last generation.
    """

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
        """How many documents are not deleted."""
        return self.entry.documents - self.dead


def settings_of(segment: Segment) -> SegmentSettings:
    """The settings of an index of format version 1, which did not store them.

    Parameters
    ----------
    segment
        Its one segment.

    Returns
    -------
    SegmentSettings
        What can be read from the segment.
    """
    fields = {} if segment.fields is None else segment.fields.counts
    indexed = sorted((counts.number, field) for field, counts in fields.items() if counts.number is not None)
    return SegmentSettings(
        fields=[format_field(field) for _, field in indexed],
        passages=segment.entry.passages,
        block_max=segment.entry.rows > 0 or not segment.entry.postings,
        reorder=segment.entry.reordered,
    )
