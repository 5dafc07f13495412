"""Other engines, each called the fastest way it offers from Python on one thread.

What is done to make them comparable, and what that leaves unsaid: all index the same 8-bit impacts in the same order.
PISA and BMP take whole-number query weights, so they answer rounded queries; they are checked against the exact answers
to those. Seismic is approximate. Settings are the engines' own defaults or those of their papers unless said.

Not run by itself. Used by :mod:`benchmarks.engines`.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import os
import sys
import time
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Answer, Engine, load_postings, save_postings
from .workload import Collection, Query, by_term


class SpladeIndex(Engine):
    """splade-index: Numba, all postings of the query's terms added into one float32 array.

    Its ``retrieve()`` wants a neural query encoder, so the function behind it is called, with its arrays.
    """

    name = "splade-index"
    package = "splade-index"
    modules = ("splade_index", "numba")

    def build(self, collection: Collection, directory: Path) -> None:
        save_postings(collection, directory)

    def open(self, directory: Path) -> None:
        indptr, documents, values, shape = load_postings(directory)
        self._retrieve = import_module("splade_index.numba.retrieve_utils")._retrieve_numba_functional
        self._index = {"data": values, "indptr": indptr, "indices": documents, "num_docs": shape[1]}

    def prepare(self, query: Query) -> Any:
        return [query[0].astype(np.int32)], [query[1]]

    def search(self, query: Any, k: int) -> Any:
        documents, scores = self._retrieve(query[0], query[1], self._index, k=k, n_threads=1, show_progress=False)
        return documents[0], scores[0]


class Pisa(Engine):
    """PISA's MaxScore (Mallia et al., OSIRRC 2019) over quantized impacts, ``block_simdbp`` postings.

    Called through the extension module in the pyterrier-pisa wheel, which needs neither Java nor PyTerrier.
    """

    name = "PISA MaxScore"
    package = "pyterrier-pisa"
    modules = ("pyterrier_pisa",)
    whole_numbers = True
    algorithm = "maxscore"

    def build(self, collection: Collection, directory: Path) -> None:
        library = _pisa()
        indptr, documents, impacts = by_term(collection)
        with (
            (directory / "inv.docs").open("wb") as docs,
            (directory / "inv.freqs").open("wb") as freqs,
            (directory / "fwd.terms").open("w") as names,
        ):
            np.array([1, collection.documents], np.uint32).tofile(docs)
            for term in np.flatnonzero(np.diff(indptr)).tolist():
                a, b = int(indptr[term]), int(indptr[term + 1])
                for file, values in ((docs, documents), (freqs, impacts)):
                    np.array([b - a], np.uint32).tofile(file)
                    values[a:b].astype(np.uint32).tofile(file)
                names.write(_term(term) + "\n")
        lengths = np.add.reduceat(np.append(collection.impacts, 0).astype(np.int64), collection.indptr[:-1])
        np.append(collection.documents, lengths).astype(np.uint32).tofile(directory / "inv.sizes")
        with (directory / "fwd.documents").open("w") as ids:
            ids.writelines(f"{number}\n" for number in range(collection.documents))
        for name, lexicon in (("documents", "doclex"), ("terms", "termlex")):
            library.build_binlex(str(directory / f"fwd.{name}"), str(directory / f"fwd.{lexicon}"))
        self._load(library, directory)
        for name in ("inv.docs", "inv.freqs", "inv.sizes", "fwd.documents"):
            (directory / name).unlink()

    def open(self, directory: Path) -> None:
        self._load(_pisa(), directory)

    def _load(self, library: Any, directory: Path) -> None:
        self._library = library
        self._context = library.RetrievalContext()
        library.prepare_index(self._context, str(directory), "block_simdbp", "quantized", "", block_size=40, quantize=0)

    def prepare(self, query: Query) -> Any:
        return 0, {_term(term): float(weight) for term, weight in zip(*query, strict=True)}

    def search(self, query: Any, k: int) -> Any:
        return self._run([query], k)

    def answer(self, result: Any) -> Answer:
        return np.array([int(document) for document in result[0]], np.int64), np.asarray(result[1], np.float64)

    def batch(self, queries: list[Any], k: int) -> float | None:
        start = time.perf_counter()
        self._run(queries, k)
        return time.perf_counter() - start

    def _run(self, queries: list[Any], k: int) -> Any:
        room = len(queries) * k
        documents, scores = np.empty(room, object), np.empty(room, np.float32)
        found = self._library.retrieve(
            self._context, self.algorithm, queries, k=k, threads=1, query_weighted=1, pretokenised=True,
            result_qidxs=np.empty(room, np.int32), result_docnos=documents, result_ranks=np.empty(room, np.int32),
            result_scores=scores,
        )  # fmt: skip
        return documents[:found], scores[:found]


def _term(term: int) -> str:
    """A term's name; PISA finds names by binary search, so their order must be that of the ids."""
    return f"t{term:05d}"


def _pisa() -> Any:
    """The extension module of pyterrier-pisa, without its package, which would want Java."""
    tbb = Path(sys.prefix) / "lib" / "libtbb.so.2"
    if tbb.exists():  # the tbb wheel puts it where the loader does not look
        ctypes.CDLL(str(tbb), mode=ctypes.RTLD_GLOBAL)
    package = importlib.util.find_spec("pyterrier_pisa")
    if package is None or not package.submodule_search_locations:
        raise ImportError("pyterrier_pisa is not installed")
    path = next(Path(package.submodule_search_locations[0]).glob("_pisathon*.so"))
    loader = importlib.machinery.ExtensionFileLoader("_pisathon", str(path))
    spec = importlib.util.spec_from_loader("_pisathon", loader)
    if spec is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Bmp(Engine):
    """BMP, block-max pruning (Mallia, Suel, Tonellotto, SIGIR 2024), block size 32, no early termination."""

    name = "BMP"
    package = "bmp"
    modules = ("bmp",)
    whole_numbers = True

    def build(self, collection: Collection, directory: Path) -> None:
        bmp = import_module("bmp")

        writer = bmp.Indexer(str(directory / "index"), bsize=32, compress_range=False)
        names = [_term(term) for term in range(collection.vocab)]
        number = 0
        for indptr, terms, impacts in collection.chunks(20_000):
            for a, b in pairwise(indptr.tolist()):
                vector = zip((names[t] for t in terms[a:b].tolist()), impacts[a:b].tolist(), strict=True)
                writer.add_document(str(number), dict(vector))
                number += 1
        writer.finish()

    def open(self, directory: Path) -> None:
        bmp = import_module("bmp")

        self._directory = directory
        self._searcher = bmp.Searcher(str(directory / "index"))

    def prepare(self, query: Query) -> Any:
        return {_term(term): float(weight) for term, weight in zip(*query, strict=True)}

    def search(self, query: Any, k: int) -> Any:
        return self._searcher.search(query, k=k, alpha=1.0, beta=1.0)

    def answer(self, result: Any) -> Answer:
        return np.array([int(document) for document in result[0]], np.int64), np.asarray(result[1], np.float64)

    def batch(self, queries: list[Any], k: int) -> float | None:
        """Its batch call reads queries from a file and says on standard error how long a query took, in µs."""
        bmp = import_module("bmp")

        source, said = self._directory / "queries.tsv", self._directory / "stderr.txt"
        with source.open("w") as file:
            for number, query in enumerate(queries):
                repeated = " ".join(" ".join([term] * int(weight)) for term, weight in query.items())
                file.write(f"{number}: {repeated}\n")
        kept = os.dup(2)
        with said.open("w") as file:
            os.dup2(file.fileno(), 2)
            try:
                bmp.search(index=str(self._directory / "index"), queries=str(source), k=k, alpha=1.0, beta=1.0)
            finally:
                os.dup2(kept, 2)
                os.close(kept)
        for line in said.read_text(errors="replace").splitlines():
            if "search_elapsed" in line:
                return float(line.rpartition("=")[2]) * 1e-6 * len(queries)
        return None


class Seismic(Engine):
    """Seismic (Bruch et al., SIGIR 2024): approximate. ``cut`` and ``heap_factor`` are settings of the query.

    Index settings are scaled to the collection: those published, for 8.8 million passages, take too long on one thread.
    """

    name = "Seismic"
    package = "pyseismic-lsr"
    modules = ("seismic",)
    exact = False
    cut, heap_factor = 6, 0.9

    def build(self, collection: Collection, directory: Path) -> None:
        seismic = import_module("seismic")

        dataset = seismic.SeismicDataset()
        first = 0
        for indptr, terms, impacts in collection.chunks(100_000):
            names = [str(number) for number in range(first, first + indptr.size - 1)]
            first += len(names)
            dataset.add_documents_by_id(names, terms.astype(np.int64), impacts.astype(np.float32), indptr)
        index = seismic.SeismicIndex.build_from_dataset(
            dataset, num_threads=1, n_postings=max(300, int(0.076 * collection.postings / collection.vocab)),
            centroid_fraction=0.1, summary_energy=0.5, max_fraction=1.5, doc_cut=15, min_cluster_size=2,
        )  # fmt: skip
        index.save(str(directory / "index"))

    def open(self, directory: Path) -> None:
        seismic = import_module("seismic")

        self._index = seismic.SeismicIndex.load(str(next(directory.glob("index*"))))
        self._text = seismic.get_seismic_string()

    def prepare(self, query: Query) -> Any:
        return np.array([str(term) for term in query[0]], dtype=self._text), query[1]

    def search(self, query: Any, k: int) -> Any:
        return self._index.search(
            "q", query[0], query[1], k=k, query_cut=self.cut, heap_factor=self.heap_factor, sorted=True
        )

    def answer(self, result: Any) -> Answer:
        return np.array([int(x[2]) for x in result], np.int64), np.array([x[1] for x in result], np.float64)


class Scipy(Engine):
    """SciPy: a sparse query (1 x terms) times the sparse postings (terms x documents), then a partial sort."""

    name = "SciPy"
    package = "scipy"
    modules = ("scipy",)

    def build(self, collection: Collection, directory: Path) -> None:
        save_postings(collection, directory)

    def open(self, directory: Path) -> None:
        import scipy.sparse as sp

        indptr, documents, values, shape = load_postings(directory)
        self._postings = sp.csr_matrix((values, documents, indptr), shape=shape)

    def prepare(self, query: Query) -> Any:
        import scipy.sparse as sp

        terms, weights = query
        return sp.csr_matrix((weights, terms, [0, terms.size]), shape=(1, self._postings.shape[0]))

    def search(self, query: Any, k: int) -> Any:
        found = query @ self._postings
        scores = found.data
        k = min(k, scores.size)
        best = np.argpartition(scores, scores.size - k)[scores.size - k :]
        best = best[np.argsort(-scores[best], kind="stable")]
        return found.indices[best], scores[best]


PEERS: tuple[type[Engine], ...] = (SpladeIndex, Pisa, Bmp, Seismic, Scipy)
