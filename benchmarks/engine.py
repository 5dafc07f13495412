"""What an engine has to do to be timed, and the plain arrays that an engine without an index of its own reads.

Not run by itself. Used by :mod:`benchmarks.engines`, :mod:`benchmarks.oracle`, :mod:`benchmarks.peers` and others.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .workload import Collection, Query, by_term

Answer = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


class Engine(ABC):
    """An engine: :meth:`build` once into a directory; :meth:`open` and :meth:`search` in another process.

    ``modules``: what must be importable. ``whole_numbers``: query weights are rounded for it. ``exact``: it claims the
    exact top k up to float32 rounding; ``ordered``: in float64, ties by document. ``package``: whose version it is.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    whole_numbers: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    ordered: ClassVar[bool] = False
    shares_index_of: ClassVar[str] = ""

    @classmethod
    def missing(cls) -> list[str]:
        """Modules it needs that are not installed."""
        return [module for module in cls.modules if importlib.util.find_spec(module) is None]

    @abstractmethod
    def build(self, collection: Collection, directory: Path) -> None:
        """Index a collection.

        Parameters
        ----------
        collection : Collection
            The collection.
        directory : Path
            An empty directory to write into.
        """

    @abstractmethod
    def open(self, directory: Path) -> None:
        """Open what :meth:`build` wrote.

        Parameters
        ----------
        directory : Path
            The directory.
        """

    def prepare(self, query: Query) -> Any:
        """Turn a query into what the engine takes; this is not timed.

        Parameters
        ----------
        query : Query
            The query.

        Returns
        -------
        object
            What :meth:`search` takes.
        """
        return query

    @abstractmethod
    def search(self, query: Any, k: int) -> Any:
        """Answer a prepared query; this call is timed.

        Parameters
        ----------
        query : object
            What :meth:`prepare` returned.
        k : int
            How many documents are asked for.

        Returns
        -------
        object
            What :meth:`answer` takes.
        """

    def answer(self, result: Any) -> Answer:
        """Read a result; this is not timed.

        Parameters
        ----------
        result : object
            What :meth:`search` returned.

        Returns
        -------
        tuple of int64 array and float64 array
            Documents and scores, best first.
        """
        documents, scores = result
        return np.asarray(documents, np.int64), np.asarray(scores, np.float64)

    def batch(self, queries: list[Any], k: int) -> float | None:
        """Answer all queries in one native call, for engines that have one.

        Parameters
        ----------
        queries : list of object
            What :meth:`prepare` returned.
        k : int
            How many documents are asked for.

        Returns
        -------
        float or None
            Seconds for all queries; None where there is no such call.
        """
        return None


def save_postings(collection: Collection, directory: Path) -> None:
    """Write the postings as plain arrays, impacts as float32: the index of engines that keep none of their own.

    Parameters
    ----------
    collection : Collection
        The collection.
    directory : Path
        The directory to write into.
    """
    indptr, documents, impacts = by_term(collection)
    np.save(directory / "indptr.npy", indptr.astype(np.int32 if collection.postings < 2**31 else np.int64))
    np.save(directory / "documents.npy", documents)
    np.save(directory / "values.npy", impacts.astype(np.float32))
    np.save(directory / "shape.npy", [collection.vocab, collection.documents])


def load_postings(directory: Path) -> tuple[Any, Any, Any, tuple[int, int]]:
    """Load what :func:`save_postings` wrote.

    Parameters
    ----------
    directory : Path
        The directory.

    Returns
    -------
    tuple
        indptr, documents, values, and the shape (vocab, documents).
    """
    indptr, documents, values, shape = (
        np.load(directory / f"{name}.npy") for name in ("indptr", "documents", "values", "shape")
    )
    return indptr, documents, values, (int(shape[0]), int(shape[1]))
