"""The model card of an artifact (README.md), and the parity table it shares with the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..models.checkpoint import Checkpoint
from ..runtime.artifact import UNLIMITED, ArtifactManifest, Kind, variant_files
from .auto.report import Choice
from .card_graph import raw_graph_section
from .parity import MOST_TOKENS, GraphParity, ParityReport

COLUMNS = (
    "role",
    "backend",
    "precision",
    "recipe",
    "max abs error",
    "of the largest",
    "cosine min",
    "cosine mean",
    "top terms",
    "top 10",
    "witness",
)


_IDF = "multiplied with the power {:g} of the terms' inverse document frequency in the index that is searched"
_TOKENIZER = {
    "class": "as transformers builds it from its class",
    "file": "`tokenizer.json` of the checkpoint, as it is",
}
_KINDS: dict[Kind, str] = {
    "encoder": "A SPLADE encoder: text in, weights over the vocabulary out.",
    "masked encoder": "A SPLADE encoder behind a mask by bag of words: only the terms of the text itself get weight.",
    "look-up": "A look-up of term weights, which takes the place of a query encoder: no model is run.",
    "bag of words": "A binary bag of words, which takes the place of a query encoder: no model is run.",
}


def parity_rows(graphs: Sequence[GraphParity]) -> list[tuple[str, ...]]:
    """The cells of a parity table.

    Parameters
    ----------
    graphs : sequence of GraphParity
        The graphs that were compared.

    Returns
    -------
    list of tuple of str
        A row for each graph, in the order of ``COLUMNS``.
    """
    return [
        (
            graph.role,
            graph.backend,
            graph.precision,
            graph.recipe or "–",
            f"{graph.max_abs_error:.1e}",
            f"{graph.relative_error:.1e}",
            f"{graph.cosine_min:.5f}",
            f"{graph.cosine_mean:.5f}",
            f"{graph.top_terms_overlap:.3f}",
            f"{graph.ranking_overlap:.3f}",
            graph.witness,
        )
        for graph in graphs
    ]


CHOICE_COLUMNS = ("role", "backend", "recipe", "cosine mean", "time", "MB", "nDCG@10", "overlap", "verdict")


def choice_rows(choice: Choice) -> list[tuple[str, ...]]:
    """The cells of the table of recipes that were tried.

    Parameters
    ----------
    choice : Choice
        What the search found.

    Returns
    -------
    list of tuple of str
        A row for each trial, in the order of ``CHOICE_COLUMNS``. "time" is a share of float32's.
    """
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


def artifact_card(directory: Path, manifest: ArtifactManifest, checkpoint: Checkpoint, report: ParityReport) -> str:
    """README.md of one encoder.

    Parameters
    ----------
    directory : Path
        The artifact's directory, for the sizes of its files.
    manifest : ArtifactManifest
        Its manifest.
    checkpoint : Checkpoint
        What it was made from.
    report : ParityReport
        How its graphs compare.

    Returns
    -------
    str
        Markdown with front matter.
    """
    side = "document" if manifest.role == "document" else "query"
    return "\n".join(
        [
            *_front_matter(manifest.source.licence),
            f"# {manifest.source.checkpoint}, {manifest.role} encoder",
            "",
            f"{_KINDS[manifest.kind]} Exported by splade-edge; it needs no PyTorch.",
            "",
            *_facts(manifest, checkpoint),
            "",
            *_use(side, "DIR"),
            "",
            "## Graphs",
            "",
            *_sizes(directory, manifest),
            "",
            *raw_graph_section(manifest),
            *_parity_section(report),
        ]
    )


def pair_card(query: ArtifactManifest, document: ArtifactManifest, report: ParityReport) -> str:
    """README.md of a pair.

    Parameters
    ----------
    query, document : ArtifactManifest
        The manifests of the two sides.
    report : ParityReport
        How the graphs of both compare.

    Returns
    -------
    str
        Markdown with front matter.
    """
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


def _facts(manifest: ArtifactManifest, checkpoint: Checkpoint) -> list[str]:
    source, family = manifest.source, checkpoint.family
    dropped = len(manifest.dropped_terms)
    asked = "; ".join(f"{name} {value!r}" for name, value in checkpoint.options.asked().items())
    prompts = [(f"prompt, {side}", f"`{json.dumps(s.prompt)}`") for side, s in manifest.sides.items() if s.prompt]
    lengths = {side: s.max_length for side, s in manifest.sides.items()}
    cut = "" if manifest.truncation_side == "right" else " at the beginning"
    facts = [
        ("role", manifest.role),
        ("encodes by", manifest.kind),
        ("family", f"{family.name} ({family.paper})" if family.paper else family.name),
        *([("pooling, activation", f"{manifest.pooling}, {manifest.activation}")] if manifest.pooling else []),
        ("vocabulary", f"{manifest.vocab_size:,} terms" + (f", {dropped} never weighted" if dropped else "")),
        *(
            [("maximum length", f"{_tokens(manifest.max_length)}; longer texts are cut{cut}")]
            if len(set(lengths.values())) == 1
            else [
                (f"maximum length, {side}", f"{_tokens(n)}; longer texts are cut{cut}") for side, n in lengths.items()
            ]
        ),
        *prompts,
        *([] if manifest.adds_special_tokens else [("special tokens", "none are added")]),
        *([("special tokens in a text", "are ordinary text")] if manifest.split_special_tokens else []),
        *([("largest weights kept", f"{manifest.max_active_dims:,}")] if manifest.max_active_dims else []),
        *([] if manifest.normalization == "none" else [("normalized (L2)", f"over {manifest.normalization}")]),
        ("tokenizer", _TOKENIZER[manifest.tokenizer_from]),
        *([("query weights", _IDF.format(manifest.query_idf))] if manifest.query_idf else []),
        ("source", source.checkpoint + (f" at {source.revision}" if source.revision else "")),
        ("weights, SHA-256", source.weights_sha256),
        *([("weights stored in", checkpoint.stored_dtype)] if checkpoint.half_precision else []),
        ("licence", source.licence),
        *([("asked for", asked)] if asked else []),
        *([("not known", "; ".join(checkpoint.unknown))] if checkpoint.unknown else []),
        *([("ignored", "; ".join(checkpoint.ignored))] if checkpoint.ignored else []),
        ("made by", manifest.made_by),
    ]
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts)]


def _tokens(length: int) -> str:
    return "any number of tokens" if length == UNLIMITED else f"{length} tokens, special ones and the prompt included"


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


def _witness_lines(report: ParityReport) -> list[str]:
    lines = []
    for witness in report.witnesses:
        name = f"{witness.name}, in float32, one text at a time"
        lines.append(f"- {witness.role}: {name}" + (f", since {witness.reason}" if witness.reason else ""))
        if witness.failed:
            lines.append(f"  ({witness.name} itself fails on {len(witness.failed)} of the texts, which are left out)")
        if witness.by_tokens:
            lines.append(
                f"  ({witness.by_tokens} texts of more than {MOST_TOKENS:,} tokens are compared by these alone)"
            )
        if witness.half_precision is not None:
            lines.append(
                f"- {witness.role}: the checkpoint is stored in half precision, which the library keeps; its own "
                f"vectors are up to {witness.half_precision:.1e} of the largest weight from those of float32"
            )
    return lines


def _parity_section(report: ParityReport) -> list[str]:
    rows = [f"| {' | '.join(row)} |" for row in parity_rows(report.graphs)]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [
        "## Parity",
        "",
        "Every graph was run by the runtime on sample text, with its tokenizer, prompts and lengths. Compared with:",
        "",
        *_witness_lines(report),
        "",
        "The table has the largest difference of a weight and its share of the largest weight, the cosine of the",
        f"vectors, and the share of the {report.top_terms} heaviest terms and of the {report.ranking_depth} best",
        f"documents that is the same. A fp32 graph may differ by {report.tolerance_fp32:.0e} where the largest weight",
        "is 1, by that share of a larger one, and never by more than a thousandth of the largest weight.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
        *rows,
        "",
        f"Versions: {versions}.",
        "",
        *(_choice_section(report.choice) if report.choice else []),
    ]
