"""The files in which compiled kernels are kept, with a checksum each: what is cut or garbled is thrown away."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import warnings
from pathlib import Path
from typing import Any

from numba.core.caching import IndexDataCacheFile

from ..errors import SpladeEdgeWarning

_DIGEST_BYTES = 32
_warned = False


class KernelFiles(IndexDataCacheFile):  # type: ignore[misc]  # Numba has no types
    """Numba's cache of one kernel: an index from signatures to files of machine code. Each file here ends with the
    SHA-256 of the rest, and one of code says which signature it is of.
    """

    def load(self, key: Any) -> Any:
        """The stored code of a signature, or None."""
        name = self._load_index().get(key)
        found = None if name is None else self._load_data(name)
        return found[1] if found is not None and found[0] == key else None

    def save(self, key: Any, data: Any) -> None:
        """Store the code of a signature."""
        super().save(key, (key, data))

    def throw_away(self, path: str | None = None) -> None:
        """Remove a damaged file (None: forget all code of this kernel), and say so, once for all kernels."""
        global _warned
        with contextlib.suppress(OSError):  # read-only: then it is compiled at every start
            Path(path or self._index_path).unlink()
        if not _warned:
            _warned = True
            warnings.warn(
                f"the cache of compiled kernels in {self._cache_path} is damaged; what is damaged is compiled again, "
                "which takes some seconds, once",
                SpladeEdgeWarning,
                stacklevel=2,
            )

    def _load_index(self) -> dict[Any, str]:
        found = self._read(self._index_path)
        if not isinstance(found, tuple) or found[:2] != (self._version, self._source_stamp):
            return {}
        overloads: dict[Any, str] = found[2]
        return overloads

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _read(self, path: str) -> Any:
        """What a file holds; None where it is not there, or not as it was written."""
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return None
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            self.throw_away(path)
            return None
        return pickle.loads(body)  # as Numba does: the cache is this user's own

    def _write(self, path: str, what: Any) -> None:
        body = self._dump(what)
        with self._open_for_write(path) as file:
            file.write(body + hashlib.sha256(body).digest())
