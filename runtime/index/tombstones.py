"""Which documents of a segment are deleted: a bit each, in a file that is written once and replaced by a later one."""

from __future__ import annotations

import hashlib

import numpy as np

from ..directory import AnyPath
from ..errors import IntegrityError
from ..files import NOT_THERE, reading, safe_join
from ..numba_support.arrays import Bools
from .layout import IndexManifest, SegmentEntry


def read_tombstones(root: AnyPath, manifest: IndexManifest, entry: SegmentEntry) -> Bools | None:
    """The deleted documents of a segment, bool ``[documents]``; None where none is. Raises IntegrityError."""
    if entry.tombstones is None:
        if entry.deleted:
            raise IntegrityError(f"{root}: its manifest counts deleted documents and names no file of them")
        return None
    path = safe_join(root, entry.tombstones)
    listed = manifest.files.get(entry.tombstones)
    size = -(-entry.documents // 8)
    if listed is None or listed.size != size:
        raise IntegrityError(f"{root}: its manifest does not give {entry.tombstones} the {size} bytes it needs")
    try:
        with reading(path):
            data = path.read_bytes()
    except NOT_THERE:
        raise IntegrityError(f"{path} is missing; copy the index again or build it anew") from None
    whole = len(data) == size and hashlib.sha256(data).hexdigest() == listed.sha256
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if not whole or bits[entry.documents :].any() or int(bits.sum()) != entry.deleted:
        raise IntegrityError(f"{path} is damaged; copy the index again or build it anew")
    return bits[: entry.documents].astype(np.bool_)
