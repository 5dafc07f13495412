"""The model card of an artifact (README.md), and the parity table it shares with the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..models.families import Family
from ..runtime.artifact import ArtifactManifest, Kind, variant_files
from .choice import Choice
from .parity import GraphParity, ParityReport

COLUMNS = (
    "role",
    "backend",
    "precision",
    "recipe",
    "max abs error",
    "cosine min",
    "cosine mean",
    "top terms",
    "top 10",
)


_IDF = "multiplied with the power {:g} of the terms' inverse document frequency in the index that is searched"
_KINDS: dict[Kind, str] = {
    "encoder": "A SPLADE encoder: text in, weights over the vocabulary out.",
    "masked encoder": "A SPLADE encoder behind a mask by bag of words: only the terms of the text itself get weight.",
    "look-up": "A look-up of term weights, which takes the place of a query encoder: no model is run.",
    "bag of words": "A binary bag of words, which takes the place of a query encoder: no model is run.",
}


def parity_rows(graphs: Sequence[GraphParity]) -> list[tuple[str, ...]]:
    """The cells of a parity table, a row a graph, in the order of ``COLUMNS``."""
    return [
        (
            graph.role,
            graph.backend,
            graph.precision,
            graph.recipe or "–",
            f"{graph.max_abs_error:.1e}",
            f"{graph.cosine_min:.5f}",
            f"{graph.cosine_mean:.5f}",
            f"{graph.top_terms_overlap:.3f}",
            f"{graph.ranking_overlap:.3f}",
        )
        for graph in graphs
    ]


CHOICE_COLUMNS = ("role", "backend", "recipe", "cosine mean", "time", "MB", "nDCG@10", "overlap", "verdict")


def choice_rows(choice: Choice) -> list[tuple[str, ...]]:
    """The cells of the table of recipes that were tried, in the order of ``CHOICE_COLUMNS``. "time" is of float32's."""
    rows: list[tuple[str, ...]] = []
    for trial in choice.trials:
        ranked = trial.ranked
        rows.append(
            (
                trial.role,
                trial.backend,
                trial.recipe,
                f"{trial.cosine_mean:.5f}" if trial.milliseconds else "–",
                f"{trial.cost:.0%}" if trial.milliseconds else "–",
                f"{trial.megabytes:.1f}",
                f"{ranked.pooled:+.4f}" if ranked and ranked.pooled is not None else "–",
                f"{ranked.overlap:.3f}" if ranked else "–",
                trial.verdict,
            )
        )
    return rows


def artifact_card(directory: Path, manifest: ArtifactManifest, family: Family, report: ParityReport) -> str:
    """README.md of one encoder."""
    side = "document" if manifest.role == "document" else "query"
    return "\n".join(
        [
            *_front_matter(manifest.source.licence),
            f"# {manifest.source.checkpoint}, {manifest.role} encoder",
            "",
            f"{_KINDS[manifest.kind]} Exported by splade-edge; it needs no PyTorch.",
            "",
            *_facts(manifest, family),
            "",
            *_use(side, "DIR"),
            "",
            "## Graphs",
            "",
            *_sizes(directory, manifest),
            "",
            *_parity_section(report),
        ]
    )


def pair_card(query: ArtifactManifest, document: ArtifactManifest, report: ParityReport) -> str:
    """README.md of a pair."""
    sources = sorted({query.source.checkpoint, document.source.checkpoint})
    licences = sorted({query.source.licence, document.source.licence})
    return "\n".join(
        [
            *_front_matter(", ".join(licences)),
            f"# {' and '.join(sources)}, query and document encoder",
            "",
            "A SPLADE pair exported by splade-edge. `query/` and `document/` are artifacts, each with its model card.",
            "",
            f"Licence of the weights: {', '.join(licences)}.",
            "",
            "```sh",
            "splade-edge index DIR corpus.jsonl -o INDEX",
            'splade-edge search INDEX "a question"',
            "```",
            "",
            *_parity_section(report),
        ]
    )


def _front_matter(licence: str) -> list[str]:
    return ["---", f"license: {licence}", "library_name: splade-edge", "tags: [splade, sparse-retrieval]", "---"]


def _facts(manifest: ArtifactManifest, family: Family) -> list[str]:
    source = manifest.source
    dropped = len(manifest.dropped_terms)
    facts = [
        ("role", manifest.role),
        ("encodes by", manifest.kind),
        ("family", f"{family.name} ({family.paper})" if family.paper else family.name),
        *([("pooling, activation", f"{manifest.pooling}, {manifest.activation}")] if manifest.pooling else []),
        ("vocabulary", f"{manifest.vocab_size:,} terms" + (f", {dropped} never weighted" if dropped else "")),
        ("maximum length", f"{manifest.max_length} tokens, special ones included; longer texts are cut"),
        *([("query weights", _IDF.format(manifest.query_idf))] if manifest.query_idf else []),
        ("source", source.checkpoint + (f" at {source.revision}" if source.revision else "")),
        ("weights, SHA-256", source.weights_sha256),
        ("licence", source.licence),
        ("made by", manifest.made_by),
    ]
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts)]


def _use(side: str, directory: str) -> list[str]:
    return [
        "```python",
        "from splade_edge.runtime import Encoder",
        f'encoder = Encoder.open("{directory}")',
        f'print(encoder.decode(encoder.encode_{side}("what is learned sparse retrieval?"), top=10))',
        "```",
    ]


def _sizes(directory: Path, manifest: ArtifactManifest) -> list[str]:
    lines = ["| backend | precision | recipe | CPUs | file | MB |", "| --- | --- | --- | --- | --- | --- |"]
    for v in manifest.variants:
        size = sum((directory / name).stat().st_size for name in variant_files(v)) / 1e6
        lines.append(f"| {v.backend} | {v.precision} | {v.recipe or '–'} | {v.isa} | `{v.path}` | {size:.1f} |")
    return lines


def _choice_section(choice: Choice) -> list[str]:
    sets = ", ".join(
        f"{s.name} ({s.queries:,} queries, {s.documents:,} documents{'' if s.judged else ', not judged'})"
        for s in choice.sets
    )
    rows = [f"| {' | '.join(row)} |" for row in choice_rows(choice)]
    return [
        "## How int8 was chosen",
        "",
        "Every recipe was made and timed (one thread, in turns with float32), and run from the fastest on",
        f"until one held, over {sets}.",
        f"It holds if nDCG@10 is at most {choice.max_ndcg_drop:g} under float32 over all queries, which its 95 %",
        "interval must show (it may not reach below 2.5 times that), and on no set",
        f"the paired 95 % interval lies wholly under {choice.least_set_difference:g}, and if the rank-biased overlap",
        f"with float32 is at least {choice.least_overlap:g}, judged or not. All this is with 8-bit impacts; all",
        "figures are in `parity.json`.",
        "",
        f"| {' | '.join(CHOICE_COLUMNS)} |",
        f"|{' --- |' * len(CHOICE_COLUMNS)}",
        *rows,
        "",
    ]


def _parity_section(report: ParityReport) -> list[str]:
    rows = [f"| {' | '.join(row)} |" for row in parity_rows(report.graphs)]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [
        "## Parity with PyTorch",
        "",
        "Every graph was run by the runtime on sample text and compared with PyTorch in float32:",
        f"the largest difference of a weight (at most {report.tolerance_fp32:.0e} for fp32), the cosine of the",
        f"vectors, and the share of the {report.top_terms} heaviest terms and of the {report.ranking_depth} best",
        "documents that is the same.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
        *rows,
        "",
        f"Versions: {versions}.",
        "",
        *(_choice_section(report.choice) if report.choice else []),
    ]
