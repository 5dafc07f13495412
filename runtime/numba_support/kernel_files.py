"""The files in which compiled kernels are kept, each with a checksum. A truncated or garbled file is thrown away."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import uuid
import warnings
from pathlib import Path
from typing import Any

import numba

from ..errors import SpladeEdgeWarning
from .internals import dumps

_DIGEST_BYTES = 32
_warned = False


class KernelFiles:
    """The cache of one kernel: an index file, from signatures to files of machine code, and those files.

    Each file ends with the SHA-256 of the rest. A file of code also says which signature it is of. Two processes may
    write at the same time: files are replaced as a whole.

    Parameters
    ----------
    directory
        Where the files are.
    name
        What their names begin with.
    stamp
        Code that was stored with another stamp is not found.
    """

    def __init__(self, directory: str, name: str, stamp: Any) -> None:
        self._directory = Path(directory)
        self._name = f"{name}.checked"
        self._index = self._directory / f"{self._name}.nbi"
        self._stamp = stamp

    def load(self, key: Any) -> Any:
        """Return the stored code of a signature, or None."""
        name = self._load_index().get(key)
        found = None if name is None else self._read(self._directory / name)
        return found[1] if found is not None and found[0] == key else None

    def save(self, key: Any, data: Any) -> None:
        """Store the code of a signature."""
        names = self._load_index()
        if key not in names:
            numbers = range(1, len(names) + 2)
            names[key] = next(n for i in numbers if (n := f"{self._name}.{i}.nbc") not in names.values())
            self._save_index(names)
        self._write(self._directory / names[key], (key, data))

    def flush(self) -> None:
        """Forget all code of this kernel."""
        self._save_index({})

    def throw_away(self, path: Path | None = None) -> None:
        """Remove a damaged file, and warn once for all kernels. Without a path, forget all code of this kernel."""
        global _warned
        with contextlib.suppress(OSError):  # a read-only cache: the kernel is compiled at every start
            (path or self._index).unlink()
        if not _warned:
            _warned = True
            warnings.warn(
                f"the cache of compiled kernels in {self._directory} is damaged; what is damaged is compiled again, "
                "which takes some seconds, once",
                SpladeEdgeWarning,
                stacklevel=2,
            )

    def _load_index(self) -> dict[Any, str]:
        """File names by signature."""
        found = self._read(self._index)
        if not isinstance(found, tuple) or found[:2] != (numba.__version__, self._stamp):
            return {}
        names: dict[Any, str] = found[2]
        return names

    def _save_index(self, names: dict[Any, str]) -> None:
        self._write(self._index, (numba.__version__, self._stamp, names))

    def _read(self, path: Path) -> Any:
        """What a file holds; None where there is no file, or its checksum is wrong."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            self.throw_away(path)
            return None
        return pickle.loads(body)  # as Numba does: the cache is this user's own

    def _write(self, path: Path, what: Any) -> None:
        body = dumps(what)
        temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:16]}")
        try:
            temporary.write_bytes(body + hashlib.sha256(body).digest())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
