"""Collections and queries that look like Efficient SPLADE's to a scorer, made from a seed.

Why not real text: the engines must be compared on a million documents and more, anywhere, in minutes. What decides
their speed is kept: the lengths of posting lists (Zipf), how terms occur together (topics, and clusters of a few dozen
near neighbours that a query is really about), how far weights within a list spread (log-normal), and 8-bit impacts.

A document draws its terms from four sources: its cluster, its topic, a second topic, and the whole vocabulary. A query
takes terms of one cluster with high weights, and topic and common terms with lower ones; weights are float32, as an
encoder gives them. Everything is a function of the shape, the number of documents and the seed (for one version of
NumPy: its generators may change between versions).

On disk: ``indptr.npy`` int64, ``terms.bin`` uint16 and ``impacts.bin`` uint8 in CSR over documents, the queries as
``queries_NAME.npz``, and ``meta.json``.

Command: ``python -m benchmarks.workload DIR --documents 100000``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Rng = np.random.Generator
Query = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]

_CHUNK = 20_000  # documents generated at a time
_LARGEST_WEIGHT = 3.5  # the weight of impact 255


@dataclass(frozen=True)
class Source:
    """Where terms come from: ``share`` of the draws, and the log-normal weights they get."""

    name: str
    share: float
    median: float
    spread: float


@dataclass(frozen=True)
class QueryShape:
    """Number of terms of a query, the shares of its cluster and its topic in them (the rest is common terms), and the
    median weight of each of the three.
    """

    fewest: int
    most: int
    mean: float
    cluster: float
    topic: float
    medians: tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """All parameters of a collection."""

    vocab: int = 30_522
    zipf: tuple[float, float] = (1.05, 40.0)  # popularity of rank r: 1 / (r + shift) ** exponent
    draws: float = 171.0  # a document; draws of the same term collapse, which leaves about 131
    draws_spread: float = 0.30
    draws_range: tuple[int, int] = (75, 330)
    documents_a_topic: int = 1000
    topics_range: tuple[int, int] = (200, 4000)
    topic_terms: int = 300
    documents_a_cluster: int = 32
    cluster_terms: tuple[int, int] = (16, 8)  # from its topic, and rare ones
    sources: tuple[Source, ...] = (
        Source("cluster", 0.14, 1.15, 0.40),
        Source("topic", 0.50, 0.50, 0.60),
        Source("second topic", 0.10, 0.40, 0.60),
        Source("common", 0.26, 0.28, 0.65),
    )
    queries: dict[str, QueryShape] = field(
        default_factory=lambda: {
            "short": QueryShape(4, 10, 6.0, 0.50, 0.25, (1.6, 0.9, 0.45)),
            "long": QueryShape(30, 60, 45.0, 0.27, 0.40, (1.6, 0.45, 0.20)),
        }
    )


class _Model:
    """The latent structure that documents and queries of a collection share."""

    def __init__(self, shape: Shape, documents: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self.shape = shape
        self.topics = int(np.clip(documents // shape.documents_a_topic, *shape.topics_range))
        self.clusters = max(self.topics, documents // shape.documents_a_cluster)
        exponent, shift = shape.zipf
        popularity = (np.arange(shape.vocab) + shift) ** -exponent
        self._term_of_rank = rng.permutation(shape.vocab).astype(np.int64)
        self._popular = _cumulative(popularity)
        # Topics draw from a flatter law, else all would share the same common terms.
        ranks = np.searchsorted(_cumulative(popularity**0.6), rng.random((self.topics, shape.topic_terms)))
        self._topic_terms = self._term_of_rank[ranks]
        self._within_topic = _cumulative(1.0 / (np.arange(shape.topic_terms) + 6.0))
        self.topic_of = np.searchsorted(_cumulative(rng.lognormal(0, 0.8, self.topics)), rng.random(self.clusters))
        self._cluster_sizes = _cumulative(rng.lognormal(0, 0.7, self.clusters))
        own, rare = shape.cluster_terms
        self.cluster_terms = np.concatenate(
            [
                self.topic_draw(rng, np.repeat(self.topic_of, own)).reshape(-1, own),
                self._term_of_rank[rng.integers(2000, shape.vocab, (self.clusters, rare))],
            ],
            axis=1,
        )

    def cluster_draw(self, rng: Rng, count: int) -> I64:
        """Clusters, by size."""
        return np.searchsorted(self._cluster_sizes, rng.random(count)).astype(np.int64)

    def topic_draw(self, rng: Rng, topics: I64) -> I64:
        """A term of each of these topics."""
        return self._topic_terms[topics, np.searchsorted(self._within_topic, rng.random(topics.size))]

    def common_draw(self, rng: Rng, count: int) -> I64:
        """Terms by popularity."""
        return self._term_of_rank[np.searchsorted(self._popular, rng.random(count))]


def _cumulative(weights: npt.NDArray[np.floating]) -> F64:
    total: F64 = np.cumsum(weights, dtype=np.float64)
    total /= total[-1]
    total[-1] = 1.0
    return total


def _documents(model: _Model, rng: Rng, count: int) -> tuple[I64, npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """A chunk of documents: (lengths, terms, impacts)."""
    shape = model.shape
    cluster = model.cluster_draw(rng, count)
    topic, second = model.topic_of[cluster], rng.integers(0, model.topics, count)
    draws = np.clip(rng.lognormal(np.log(shape.draws), shape.draws_spread, count), *shape.draws_range).astype(np.int64)
    document = np.repeat(np.arange(count), draws)
    shares = _cumulative(np.array([source.share for source in shape.sources]))
    source_of = np.searchsorted(shares, rng.random(document.size))
    keys = []
    for number, source in enumerate(shape.sources):
        at = document[source_of == number]
        if source.name == "cluster":
            columns = rng.integers(0, model.cluster_terms.shape[1], at.size)
            terms = model.cluster_terms[cluster[at], columns]
        elif source.name == "common":
            terms = model.common_draw(rng, at.size)
        else:
            terms = model.topic_draw(rng, (topic if source.name == "topic" else second)[at])
        weights = rng.lognormal(np.log(source.median), source.spread, at.size)
        impacts = np.clip(np.rint(weights * (255 / _LARGEST_WEIGHT)), 1, 255).astype(np.int64)
        keys.append(at << 32 | terms << 8 | impacts)
    packed = np.sort(np.concatenate(keys))
    heaviest = np.append(packed[1:] >> 8 != packed[:-1] >> 8, True)  # of draws of the same term
    packed = packed[heaviest]
    lengths = np.bincount(packed >> 32, minlength=count).astype(np.int64)
    return lengths, (packed >> 8 & 0xFFFF).astype(np.uint16), (packed & 0xFF).astype(np.uint8)


def _query(model: _Model, rng: Rng, shape: QueryShape) -> Query:
    cluster = model.cluster_draw(rng, 1)
    wanted = int(np.clip(rng.poisson(shape.mean), shape.fewest, shape.most))
    parts = [max(2, round(wanted * shape.cluster)), max(1, round(wanted * shape.topic))]
    candidates = (
        rng.permutation(model.cluster_terms[cluster[0]])[: parts[0]],
        model.topic_draw(rng, np.repeat(model.topic_of[cluster], 4 * parts[1])),
        model.common_draw(rng, 8 * wanted),
    )
    found: dict[int, float] = {}
    room = 0
    for terms, median, share in zip(candidates, shape.medians, (*parts, wanted), strict=True):
        room = min(wanted, room + share)
        for term in terms.tolist():
            if len(found) < room:
                found.setdefault(term, median)
    terms = np.array(sorted(found), np.int32)
    weights = np.array([found[term] for term in terms.tolist()]) * rng.lognormal(0, 0.35, terms.size)
    return terms, np.minimum(weights, _LARGEST_WEIGHT).astype(np.float32)


def generate(path: Path, documents: int, *, queries: int = 1000, seed: int = 7, shape: Shape | None = None) -> None:
    """Write a collection.

    Parameters
    ----------
    path : Path
        The directory to write.
    documents : int
        How many documents.
    queries : int
        How many queries of each set.
    seed : int
        The seed.
    shape : Shape, optional
        The parameters of the distributions.
    """
    shape = shape or Shape()
    start = time.perf_counter()
    path.mkdir(parents=True, exist_ok=True)
    model = _Model(shape, documents, seed)
    lengths = []
    with (path / "terms.bin").open("wb") as terms_file, (path / "impacts.bin").open("wb") as impacts_file:
        for number, first in enumerate(range(0, documents, _CHUNK)):
            rng = np.random.default_rng([seed, 2, number])
            counts, terms, impacts = _documents(model, rng, min(_CHUNK, documents - first))
            lengths.append(counts)
            terms.tofile(terms_file)
            impacts.tofile(impacts_file)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    np.save(path / "indptr.npy", indptr)
    for number, (name, query_shape) in enumerate(shape.queries.items()):
        rng = np.random.default_rng([seed, 3, number])
        made = [_query(model, rng, query_shape) for _ in range(queries)]
        np.savez(
            path / f"queries_{name}.npz",
            indptr=np.concatenate([[0], np.cumsum([terms.size for terms, _ in made])]),
            terms=np.concatenate([terms for terms, _ in made]),
            weights=np.concatenate([weights for _, weights in made]),
        )
    meta = {
        "n_docs": documents, "vocab": shape.vocab, "nnz": int(indptr[-1]), "seed": seed,
        "seconds": round(time.perf_counter() - start, 1), "shape": dataclasses.asdict(shape),
    }  # fmt: skip
    (path / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")  # last: it says "complete"


def collection_path(work: Path, documents: int) -> Path:
    """Where the benchmarks keep a generated collection.

    A hash of this file is in the name, so a collection of an older generator is never taken for one of this.

    Parameters
    ----------
    work : Path
        The directory of all collections.
    documents : int
        How many documents it has.

    Returns
    -------
    Path
        The collection's directory.
    """
    return work / f"collection-{documents}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"


class Collection:
    """A collection on disk; arrays are memory-mapped."""

    def __init__(self, path: Path) -> None:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        self.path = path
        self.documents: int = meta["n_docs"]
        self.vocab: int = meta["vocab"]
        self.indptr: I64 = np.load(path / "indptr.npy")
        self.terms: npt.NDArray[np.uint16] = np.memmap(path / "terms.bin", np.uint16, "r")
        self.impacts: npt.NDArray[np.uint8] = np.memmap(path / "impacts.bin", np.uint8, "r")

    @property
    def postings(self) -> int:
        """Non-zeros of all documents."""
        return int(self.indptr[-1])

    @property
    def sets(self) -> list[str]:
        """The query sets it has, ``short`` and ``long`` if it was generated."""
        return [name for name in ("short", "long") if (self.path / f"queries_{name}.npz").exists()]

    def queries(self, name: str) -> list[Query]:
        """Load a query set.

        Parameters
        ----------
        name : str
            The name of the set.

        Returns
        -------
        list of tuple of int32 array and float32 array
            Terms, ascending, and weights of each query.
        """
        with np.load(self.path / f"queries_{name}.npz") as stored:
            indptr, terms, weights = stored["indptr"], stored["terms"].astype(np.int32), stored["weights"]
        weights = weights.astype(np.float32)
        return [(terms[a:b], weights[a:b]) for a, b in pairwise(indptr)]

    def chunks(self, documents: int) -> Iterator[tuple[I64, npt.NDArray[np.uint16], npt.NDArray[np.uint8]]]:
        """Read consecutive documents, chunk by chunk, without mapping them, so that they can be freed.

        Parameters
        ----------
        documents : int
            The documents of a chunk.

        Returns
        -------
        iterator of tuple
            indptr int64 from 0, terms uint16, impacts uint8.
        """
        with (self.path / "terms.bin").open("rb") as terms, (self.path / "impacts.bin").open("rb") as impacts:
            for first in range(0, self.documents, documents):
                indptr = self.indptr[first : first + documents + 1] - self.indptr[first]
                count = int(indptr[-1])
                yield indptr, np.fromfile(terms, np.uint16, count), np.fromfile(impacts, np.uint8, count)


def by_term(collection: Collection) -> tuple[I64, npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """The collection in CSC, documents ascending; it is kept on disk.

    Parameters
    ----------
    collection : Collection
        The collection.

    Returns
    -------
    tuple
        indptr int64 ``[vocab + 1]``, documents int32, impacts uint8.
    """
    import scipy.sparse as sp

    names = [collection.path / f"csc_{part}.npy" for part in ("indptr", "docs", "imp")]
    if not names[0].exists():
        parts = (collection.impacts, collection.terms.astype(np.int32), collection.indptr)
        matrix = sp.csr_matrix(parts, shape=(collection.documents, collection.vocab)).tocsc()
        for name, array in zip(reversed(names), (matrix.data, matrix.indices, matrix.indptr), strict=True):
            np.save(name, array)
    indptr, documents, impacts = (np.load(name, mmap_mode="r") for name in names)
    return np.asarray(indptr, np.int64), documents, impacts


def rounded(query: Query, largest: int = 32) -> Query:
    """Round the weights of a query, for engines that take whole numbers.

    Parameters
    ----------
    query : Query
        The query.
    largest : int
        What its heaviest weight becomes; none becomes less than 1.

    Returns
    -------
    Query
        The rounded query.
    """
    terms, weights = query
    return terms, np.maximum(1, np.rint(weights * (largest / weights.max()))).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workload", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="DIR")
    parser.add_argument("--documents", type=int, default=100_000, metavar="N")
    parser.add_argument("--queries", type=int, default=1000, metavar="N", help="queries a set")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(argv)
    generate(args.output, args.documents, queries=args.queries, seed=args.seed)
    from .report import console

    console().print((args.output / "meta.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
