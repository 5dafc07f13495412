"""Collections made from others: in the order of ``--reorder``, or of real vectors from an index and queries.

``reorder COLLECTION DIR`` puts the documents of a collection into the order that splade-edge would give them, so that
every engine can have it. ``encode INDEX QUERIES DIR`` takes the impacts of an index made by ``splade-edge index`` and
encodes the queries (JSONL with ``text``, one a line) with the query encoder it holds.

Command: ``python -m benchmarks.derived encode INDEX QUERIES DIR``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .workload import Collection, Query

_BATCH = 100_000  # documents sketched at a time; from the first the weights of terms are taken


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.derived", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(dest="task", required=True)
    for name, sources in (("reorder", ("collection",)), ("encode", ("index", "queries"))):
        task = tasks.add_parser(name)
        for source in (*sources, "output"):
            task.add_argument(source, type=Path, metavar="DIR" if source == "output" else source.upper())
    args = parser.parse_args(argv)
    if args.task == "reorder":
        reorder(Collection(args.collection), args.output)
    else:
        encode(args.index, args.queries, args.output)


def reorder(collection: Collection, path: Path) -> None:
    """Write a collection with similar documents next to each other; the queries are the same.

    Parameters
    ----------
    collection : Collection
        The collection.
    path : Path
        The directory to write.
    """
    from splade_edge.runtime.build.reordering import Sketcher
    from splade_edge.runtime.vectors import SparseBatch

    with tempfile.TemporaryDirectory() as scratch:
        sketches = Sketcher(Path(scratch) / "sketches", collection.vocab)
        for indptr, terms, impacts in collection.chunks(_BATCH):
            sketches.add(SparseBatch(indptr, terms.astype(np.int32), impacts.astype(np.float32)))
        order = sketches.order().astype(np.int64)
    lengths = np.diff(collection.indptr)[order]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    # the posting at each new place: where its document began, and how far into it
    taken = np.repeat(collection.indptr[order] - indptr[:-1], lengths) + np.arange(indptr[-1])
    _write(path, indptr, collection.terms[taken], collection.impacts[taken], collection.vocab)
    for name in collection.sets:
        shutil.copyfile(collection.path / f"queries_{name}.npz", path / f"queries_{name}.npz")


def encode(index: Path, queries: Path, path: Path) -> None:
    """Write the impacts of an index as a collection, and queries as its encoder weighs them (the set ``short``).

    Parameters
    ----------
    index : Path
        An index made by ``splade-edge index``.
    queries : Path
        JSON lines with ``text``.
    path : Path
        The directory to write.
    """
    from splade_edge.runtime import Searcher

    lines = queries.read_text(encoding="utf-8").splitlines()
    with Searcher.open(index) as searcher:
        vectors = [searcher.encode_query(json.loads(line)["text"]) for line in lines if line.strip()]
        segment = searcher.index._segment
        vocab = segment.vocab_size
        if vocab > 1 << 16:
            raise SystemExit(f"a collection holds at most 65,536 terms; this vocabulary has {vocab}")
        lists = [segment.postings(term) for term in range(vocab)]
    units = np.concatenate([found for found, _ in lists])
    impacts = np.concatenate([found for _, found in lists])
    terms = np.repeat(np.arange(vocab, dtype=np.uint16), [found.size for found, _ in lists])
    order = np.argsort(units, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(units, minlength=segment.units))])
    _write(path, indptr, terms[order], impacts[order], vocab)
    save_queries(path, "short", [(v.indices, v.values) for v in vectors if v.indices.size])


def save_queries(path: Path, name: str, queries: Sequence[Query]) -> None:
    """Write a query set of a collection.

    Parameters
    ----------
    path : Path
        The collection's directory.
    name : str
        The name of the set.
    queries : sequence of Query
        The queries.
    """
    indptr = np.cumsum([0, *(terms.size for terms, _ in queries)])
    terms, weights = (np.concatenate([query[part] for query in queries]) for part in (0, 1))
    np.savez(path / f"queries_{name}.npz", indptr=indptr, terms=terms, weights=weights)


def _write(path: Path, indptr: Any, terms: npt.NDArray[np.uint16], impacts: npt.NDArray[np.uint8], vocab: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    np.save(path / "indptr.npy", indptr.astype(np.int64))
    terms.tofile(path / "terms.bin")
    impacts.tofile(path / "impacts.bin")
    meta = {"n_docs": int(indptr.size - 1), "vocab": vocab}
    (path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


if __name__ == "__main__":
    main()
