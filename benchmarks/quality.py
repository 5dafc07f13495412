"""What each step from PyTorch to the device costs in ranking quality.

Every exported graph is run end to end, through ``build_index`` and ``Searcher`` with their 8-bit impacts, and compared
query by query with the PyTorch encoders in float32 and an exact dot product, or without a checkpoint with BM25.

Command: ``python -m benchmarks.quality DIR --pair PAIR --checkpoint models/default``.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from splade_edge.runtime.artifact import Artifact, Variant, open_artifact
from splade_edge.runtime.build.index_writer import IndexWriter
from splade_edge.runtime.build.indexing import build_index, join_title
from splade_edge.runtime.cli.command import exponent as idf_exponent
from splade_edge.runtime.document import Document
from splade_edge.runtime.idf import idf_factors
from splade_edge.runtime.index import Index
from splade_edge.runtime.searcher import Searcher
from splade_edge.runtime.vectors import SparseBatch

from .cached_vectors import CachedDense, CachedEncoder, CachedReference
from .pooled import pool, pooled_report
from .report import Report, add_report_arguments, publish, say
from .retrieval_sets import DEPTH, F64, MEASURES, RetrievalSet, bootstrap_interval, measure_run, read_set

REFERENCE = "PyTorch fp32, exact"
BM25 = "BM25"
IMPACTS = "PyTorch fp32, 8-bit impacts"
COUNTS = ("query terms", "doc. terms", "stop %")


@dataclass(frozen=True)
class Outcome:
    """One system on one set: each measure for each query, mean terms of a query and a document, and the share of
    weight on stop words, punctuation and special tokens (of the queries' or the documents', whichever is larger).
    """

    values: dict[str, F64]
    query_terms: float
    document_terms: float
    idle_weight: float = np.nan


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("sets", nargs="+", metavar="DIR[:SPLIT]", help="BEIR sets (split: test)")
    parser.add_argument("--pair", metavar="DIR", required=True, help="the exported pair")
    parser.add_argument("--checkpoint", metavar="DIR", help="its checkpoint, for the PyTorch rows")
    parser.add_argument(
        "--variants", metavar="LIST", default="", help="graphs, such as onnx-fp32,openvino-int8 (default: all)"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", default=Path("build/bench/quality"), help="cached vectors")
    parser.add_argument("--teacher", metavar="DIR", help="a dense encoder to set beside it, alone and with BM25")
    parser.add_argument(
        "--teacher-weights",
        type=float,
        nargs=2,
        metavar=("DENSE", "LEXICAL"),
        default=(20.0, 0.7),
        help="its cosine's and BM25's weight (default: 20 0.7, as in training)",
    )
    parser.add_argument(
        "--idf", metavar="POWER", type=idf_exponent, help="as of splade-edge search (default: the encoder's)"
    )
    parser.add_argument("--no-bm25", action="store_true", help="leave BM25 out")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the encoders (default: all CPUs)")
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    if not (args.no_bm25 and args.teacher is None) and importlib.util.find_spec("Stemmer") is None:
        parser.error("BM25 needs PyStemmer: run this in .venv-test, which make test makes, or pass --no-bm25")
    results: dict[str, dict[str, Any]] = {}
    differences: dict[str, dict[str, F64]] = {}
    reports = []
    for spec in args.sets:
        data = read_set(spec)
        outcomes = run_set(data, args)
        results[data.name] = summarise(data, outcomes)
        differences[data.name] = {name: d["nDCG@10"] for name, d in differences_of(outcomes).items()}
        reports.append(set_report(data, results[data.name]))
        reports[-1].print()
    shown = len(reports)
    reports.append(overview(results))
    if args.checkpoint and len(differences) > 1:
        pooled = pool(differences)
        reports.append(pooled_report(pooled))
        results["pooled nDCG@10 difference"] = pooled
    publish(args, "quality", reports, results, shown=shown)


def run_set(data: RetrievalSet, args: argparse.Namespace) -> dict[str, Outcome]:
    """Every system on one set, by its name."""
    outcomes: dict[str, Outcome] = {}
    if args.checkpoint:
        say(f"{data.name}: PyTorch")
        outcomes.update(run_reference(data, args.checkpoint, args.work, args.idf))
    for variant in variants_of(args.pair, args.variants):
        say(f"{data.name}: {variant.backend} {variant.precision}")
        outcomes[system_name(variant)] = run_variant(data, variant, args)
    if args.teacher:
        say(f"{data.name}: teacher")
        outcomes.update(run_teacher(data, args))
    if not args.no_bm25:
        from splade_edge.models.training.bm25 import Bm25

        bm25 = Bm25(f"{d.title} {d.text}" for d in data.documents)
        ranks = bm25.rank([query.text for query in data.queries], DEPTH)
        outcomes[BM25] = Outcome(_measured(data, ranks), np.nan, np.nan)
    return outcomes


def system_name(variant: Variant) -> str:
    """``ONNX int8 (dynamic)``: as the tables name a graph."""
    engine = {"onnx": "ONNX", "openvino": "OpenVINO", "kernel": "ours,"}[variant.backend]
    recipe = f" ({variant.recipe})" if variant.recipe else ""
    return f"{engine} {variant.precision}{recipe}"


def variants_of(pair: str, wanted: str) -> list[Variant]:
    """The graphs to run, fp32 before int8. A side that has no such graph is run with its default of that precision."""
    of_sides = (open_artifact(pair, side).manifest.variants for side in ("document", "query"))
    found = list({(v.backend, v.precision): v for variants in of_sides for v in reversed(variants)}.values())
    names = wanted.split(",") if wanted else [f"{v.backend}-{v.precision}" for v in found]
    return [v for v in sorted(found, key=lambda v: (v.precision, v.backend)) if f"{v.backend}-{v.precision}" in names]


def run_reference(data: RetrievalSet, checkpoint: str, work: Path, idf: float | None) -> dict[str, Outcome]:
    """PyTorch vectors twice: ranked by exact dot product, and through our index, which tells what 8 bits cost."""
    from splade_edge.models.training.bm25 import rank_exactly

    documents = CachedReference(checkpoint, "document", work).encode(
        join_title(d.title, d.text) for d in data.documents
    )
    encoder = CachedReference(checkpoint, "query", work)
    queries = encoder.encode(q.text for q in data.queries)
    vocabulary = 1 + max(int(batch.indices.max(initial=0)) for batch in (documents, queries))
    query_terms, document_terms = (b.indices.size / len(b) for b in (queries, documents))
    by_term = _matrix(documents, vocabulary).T.tocsr()
    power = encoder.query_idf if idf is None else idf
    factors = idf_factors(np.diff(by_term.indptr), len(documents), power)
    exact = rank_exactly(_matrix(queries, vocabulary).multiply(factors).tocsr(), by_term, DEPTH)
    with tempfile.TemporaryDirectory() as place:
        writer = IndexWriter(Path(place) / "index", vocabulary)
        for number in range(len(documents)):
            writer.add_document(Document(str(number)))
        writer.add_vectors(documents)
        kept = writer.finish().segments[0].postings / len(documents)
        index = Index.open(Path(place) / "index")
        factors = idf_factors(index.frequencies(np.arange(vocabulary)), index.units, power)
        weighted = ((terms, weights * factors[terms]) for terms, weights in queries)
        quantized = [index.search_vector(query, DEPTH)[0].tolist() for query in weighted]
        del index
    return {
        REFERENCE: Outcome(_measured(data, exact), query_terms, document_terms),
        IMPACTS: Outcome(_measured(data, quantized), query_terms, kept),
    }


def run_teacher(data: RetrievalSet, args: argparse.Namespace) -> dict[str, Outcome]:
    """What the pair was distilled from: cosine of dense vectors, and its weighted sum with BM25."""
    from splade_edge.models.training.bm25 import Bm25

    texts = [join_title(d.title, d.text) for d in data.documents]
    encoder = CachedDense(args.teacher, 256, args.work)
    documents = encoder.encode(texts)
    queries = encoder.encode(q.text for q in data.queries)
    bm25 = Bm25(texts)
    dense, lexical = args.teacher_weights
    everything = np.arange(len(texts))
    ranks: dict[str, list[list[int]]] = {"dense teacher": [], "dense teacher + BM25": []}
    for number, query in enumerate(data.queries):
        cosine = documents @ queries[number]
        both = dense * cosine + lexical * bm25.scores([query.text], everything)[0]
        for name, scores in zip(ranks, (cosine, both), strict=True):
            ranks[name].append(np.argsort(-scores, kind="stable")[:DEPTH].tolist())
    return {name: Outcome(_measured(data, found), np.nan, np.nan) for name, found in ranks.items()}


def run_variant(data: RetrievalSet, variant: Variant, args: argparse.Namespace) -> Outcome:
    """One exported graph, end to end: texts to an index directory, queries to document ids."""
    documents = open_artifact(args.pair, "document")
    encoder = CachedEncoder(documents, _alike(documents, variant), args.threads, args.work, "document")
    args.work.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="index-", dir=args.work))
    try:
        manifest = build_index(place / "index", data.documents, encoder, open_artifact(args.pair, "query"))
        carried = open_artifact(place / "index" / str(manifest.query_encoder))
        query_encoder = CachedEncoder(carried, _alike(carried, variant), args.threads, args.work, "query")
        searcher = Searcher(Index.open(place / "index"), query_encoder, args.threads, idf=args.idf)
        texts = [query.text for query in data.queries]
        ranks = [[hit.id for hit in hits] for hits in searcher.search_many(texts, DEPTH)]
        queries = SparseBatch.stack([encoded.vector for encoded in query_encoder.encode(texts)])
        bodies = (join_title(d.title, d.text) for d in data.documents)
        vectors = SparseBatch.stack([encoded.vector for encoded in encoder.encode(bodies)])
        idle = max(idle_weight(batch, encoder.artifact.path / "tokenizer.json") for batch in (queries, vectors))
        entry = manifest.segments[0]
        query_terms = queries.indices.size / len(queries)
        return Outcome(measure_run(data, ranks), query_terms, entry.postings / entry.units, idle)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def idle_weight(vectors: SparseBatch, tokenizer: Path) -> float:
    """The share of all weight that lies on stop words, punctuation and special tokens."""
    from splade_edge.models.training.vocabulary import silent_terms
    from tokenizers import Tokenizer

    opened = Tokenizer.from_file(str(tokenizer))
    size = 1 + max(int(vectors.indices.max(initial=0)), *opened.get_vocab().values())
    idle = silent_terms(opened, ["special", "stop words", "punctuation"], size)
    return float(vectors.values[idle[vectors.indices]].sum(dtype=np.float64) / vectors.values.sum(dtype=np.float64))


def _alike(artifact: Artifact, variant: Variant) -> Variant:
    """The artifact's graph of the same backend and precision, or else its default of the precision."""
    same = [v for v in artifact.manifest.variants if (v.backend, v.precision) == (variant.backend, variant.precision)]
    return artifact.variant(variant.backend if same else None, variant.precision)


def differences_of(outcomes: dict[str, Outcome]) -> dict[str, dict[str, F64]]:
    """Each measure's difference from the reference, query by query, of every system but the reference itself.

    The reference is PyTorch, or BM25 where there is no checkpoint.
    """
    reference = next((name for name in (REFERENCE, BM25) if name in outcomes), None)
    if reference is None:
        return {}
    exact = outcomes[reference].values
    others = ((name, outcome.values) for name, outcome in outcomes.items() if name != reference)
    return {name: {m: v - exact[m] for m, v in values.items()} for name, values in others}


def summarise(data: RetrievalSet, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Means, and paired differences from the reference with their 95 % intervals."""
    systems = {}
    differences = differences_of(outcomes)
    for name, outcome in outcomes.items():
        entry: dict[str, Any] = {m: float(v.mean()) for m, v in outcome.values.items()}
        entry |= {"query_terms": outcome.query_terms, "document_terms": outcome.document_terms}
        entry["idle_weight"] = outcome.idle_weight
        if name in differences:
            entry["difference"] = {m: [float(d.mean()), *bootstrap_interval(d)] for m, d in differences[name].items()}
        systems[name] = entry
    return {"documents": len(data.documents), "queries": len(data.queries), "systems": systems}


def set_report(data: RetrievalSet, result: dict[str, Any]) -> Report:
    """The table of one set."""
    report = Report(
        f"{data.name}: {len(data.documents):,} documents, {len(data.queries):,} queries",
        [
            "system",
            *(f">{m}" for m in MEASURES),
            ">ΔnDCG@10 [95 %]",
            ">ΔRR@10 [95 %]",
            ">query terms",
            ">doc. terms",
            ">stop %",
        ],
    )
    for name, entry in result["systems"].items():
        differences = [
            "{:+.4f} [{:+.4f}, {:+.4f}]".format(*entry["difference"][m]) if "difference" in entry else "–"
            for m in MEASURES[:2]
        ]
        counts = ["–" if np.isnan(entry[x]) else f"{entry[x]:.1f}" for x in ("query_terms", "document_terms")]
        counts.append("–" if np.isnan(entry["idle_weight"]) else f"{entry['idle_weight']:.1%}")
        report.rows.append([name, *(f"{entry[m]:.4f}" for m in MEASURES), *differences, *counts])
    return report


def overview(results: dict[str, dict[str, Any]]) -> Report:
    """nDCG@10 / RR@10 of every system on every set."""
    report = Report("nDCG@10 / RR@10", ["system", *(f">{name}" for name in results)])
    systems = dict.fromkeys(name for result in results.values() for name in result["systems"])
    for name in systems:
        cells = []
        for result in results.values():
            entry = result["systems"].get(name)
            cells.append(f"{entry['nDCG@10']:.3f} / {entry['RR@10']:.3f}" if entry else "–")
        report.rows.append([name, *cells])
    report.notes.append(
        "Exported graphs run end to end through build_index and Searcher with 8-bit impacts. Differences are paired by "
        "query, against PyTorch (without --checkpoint: BM25); intervals are from 10,000 bootstrap resamples of the "
        "queries. Stop %: share of weight on stop words, punctuation and special tokens, of the queries' or the "
        "documents', whichever is larger."
    )
    return report


def _measured(data: RetrievalSet, ranks: list[list[int]]) -> dict[str, F64]:
    return measure_run(data, [[data.documents[i].id for i in ranking] for ranking in ranks])


def _matrix(batch: SparseBatch, columns: int) -> sp.csr_matrix:
    return sp.csr_matrix((batch.values.astype(np.float64), batch.indices, batch.indptr), shape=(len(batch), columns))


if __name__ == "__main__":
    main()
