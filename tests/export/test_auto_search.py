"""``--recipe auto``: what is shipped, what is said of the rest, and that times alone can change it."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from splade_edge.export import backends
from splade_edge.export.auto import ranking, search
from splade_edge.export.auto.report import Ranked, SetDifference
from splade_edge.export.auto.retrieval_sets import RetrievalSet
from splade_edge.export.auto.search import Candidate, Chooser
from splade_edge.export.exporter import export
from splade_edge.export.parity import ParityReport
from splade_edge.export.recipes import RECIPES, choose_recipe
from splade_edge.export.request import ExportRequest
from splade_edge.models.options import OpenOptions
from splade_edge.runtime import cpu
from splade_edge.runtime.artifact import open_artifact
from splade_edge.runtime.cli.info import describe
from splade_edge.runtime.document import Document
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.errors import ExportError, InputError
from splade_edge.runtime.evaluation.trec import Query
from splade_edge.runtime.vectors import SparseBatch

from .. import checkpoints

pytestmark = pytest.mark.usefixtures("traced_once")
SOME = ("vocabulary", "vocabulary-vnni", "rows-vnni", "dynamic", "weights")
# Of float32's time.
COST = {"vocabulary": 0.6, "vocabulary-vnni": 0.3, "rows-vnni": 0.5, "dynamic": 0.4, "weights": 0.5}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five recipes, times that are always the same, and a CPU with VNNI."""
    monkeypatch.setattr(
        search, "recipes_for", lambda backend, _: [r for r in RECIPES if r.asked_with == backend and r.name in SOME]
    )
    monkeypatch.setattr(
        search, "milliseconds", lambda encoders, sides: {n: {s: COST.get(n, 1.0) for s in sides} for n in encoders}
    )
    monkeypatch.setattr(cpu, "x86_features", lambda: frozenset({"avx512vnni"}))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retrieval set in the words of the tiny checkpoints."""
    return write_set(tmp_path_factory.mktemp("sets") / "tiny-set", queries=40)


def write_set(path: Path, *, queries: int, qrels: bool = True) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(checkpoints.WORDS, 12)) for _ in range(60)]
    (path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": str(i), "title": "", "text": text}) + "\n" for i, text in enumerate(texts))
    )
    (path / "queries.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"q{i}", "text": " ".join(texts[i % 60].split()[i % 7 : i % 7 + 4])}) + "\n"
            for i in range(queries)
        )
    )
    if qrels:
        (path / "qrels").mkdir()
        (path / "qrels" / "test.tsv").write_text("".join(f"q{i}\t{i % 60}\t1\n" for i in range(queries)))
    return path


def auto(output: Path, checkpoint: Path, *sets: Path, **options: Any) -> ExportRequest:
    return ExportRequest(
        output=output,
        checkpoint=str(checkpoint),
        backends=options.pop("backends", ("onnx",)),
        recipes={"onnx": "auto", **options.pop("recipes", {})},
        eval_data=tuple(map(str, sets)),
        **options,
    )


@pytest.mark.usefixtures("quick")
def test_the_fastest_that_holds_is_shipped_and_the_rest_explained(tmp_path: Path, pair: Path, judged: Path) -> None:
    both = ("onnx", "openvino")
    recipes = {"openvino": "auto"}
    for name in ("a", "b"):
        result = export(auto(tmp_path / name, pair, judged, backends=both, recipes=recipes, max_ndcg_drop=0.05))
    choice = result.report.choice
    assert choice is not None
    assert [(s.name, s.queries, s.judged) for s in choice.sets] == [("tiny-set", 40, True)]
    assert {(t.role, t.backend, t.recipe) for t in choice.trials} == {
        (role, r.asked_with, r.name) for role in ("query", "document") for r in RECIPES if r.name in SOME
    }
    for role in ("query", "document"):
        verdicts = {t.recipe: t.verdict for t in choice.trials if t.role == role}
        assert verdicts["vocabulary-vnni"] == "chosen"
        assert verdicts["rows-vnni"] == "not ranked: slower than the chosen one"
        assert "chosen for CPUs without VNNI" in verdicts.values()
        assert verdicts["weights"] == "chosen"
        manifest = open_artifact(tmp_path / "b", role).manifest
        assert {(v.backend, v.isa) for v in manifest.variants if v.precision == "int8"} == {
            ("onnx", "vnni"), ("onnx", "any"), ("openvino", "any"),
        }  # fmt: skip
        card = (tmp_path / "b" / role / "README.md").read_text()
        report = msgspec.json.decode((tmp_path / "b" / role / "parity.json").read_bytes(), type=ParityReport)
        assert {t.role for t in report.choice.trials} == {role}
        for trial in report.choice.trials:
            assert f"| {trial.recipe} |" in card
            assert trial.verdict in card
            if trial.chosen:
                assert trial.ranked.sets["tiny-set"].fp32 > 0
                assert trial.ranked.pooled is not None
                assert trial.ranked.pooled >= -0.05
                assert 0.5 < trial.ranked.overlap <= 1
    left = [p.name for p in (tmp_path / "b").iterdir()]
    assert sorted(left) == ["README.md", "document", "parity.json", "query", "splade_edge.json"]
    files = [sorted(p for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("a", "b")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]], "the same input, another result"


def test_a_form_for_our_kernels_is_a_candidate(tmp_path: Path, judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        search, "recipes_for", lambda *_: [choose_recipe("onnx", "max", name) for name in ("kernel", "vocabulary")]
    )
    cost = {"kernel": 0.3, "vocabulary": 0.6}
    monkeypatch.setattr(
        search, "milliseconds", lambda encoders, sides: {n: {s: cost.get(n, 1.0) for s in sides} for n in encoders}
    )
    checkpoint = checkpoints.write_checkpoint(tmp_path / "c", intermediate=64)
    export(auto(tmp_path / "out", checkpoint, judged, max_ndcg_drop=0.1, search_cache=tmp_path / "cache"))
    artifact = open_artifact(tmp_path / "out")
    assert [(v.backend, v.path) for v in artifact.manifest.variants if v.precision == "int8"] == [
        ("kernel", "kernel/int8.bin")
    ]
    assert Encoder(artifact, threads=1).variant.backend == "kernel"


@pytest.mark.usefixtures("quick")
def test_the_runtime_picks_by_the_cpu_and_says_so(
    tmp_path: Path, bert: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    export(auto(output, bert, judged, max_ndcg_drop=0.05))
    artifact = open_artifact(output)
    assert artifact.variant().recipe == "vocabulary-vnni"
    graphs = {g["recipe"]: g for g in describe(output)["graphs"] if g["precision"] == "int8"}
    plain = next(name for name, g in graphs.items() if g["isa"] == "any")
    assert graphs["vocabulary-vnni"]["used_here"]
    assert not graphs[plain]["used_here"]
    assert graphs[plain]["runs_here"]
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "x86_features", lambda: frozenset({"avx2"}))
    assert artifact.variant().recipe == plain
    assert Encoder(artifact).variant.recipe == plain
    graphs = {g["recipe"]: g for g in describe(output)["graphs"] if g["precision"] == "int8"}
    assert not graphs["vocabulary-vnni"]["runs_here"]
    assert graphs[plain]["used_here"]


@pytest.mark.usefixtures("quick")
def test_where_nothing_holds_fp32_alone_is_shipped(
    tmp_path: Path, bert: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chooser, "_problem", lambda self, ranked: "it does not")
    result = export(auto(tmp_path / "out", bert, judged))
    assert [v.precision for v in open_artifact(result.path).manifest.variants] == ["fp32"]
    assert "no int8 recipe holds the ranking of the both encoder on onnx: fp32 alone was written" in result.notes
    assert {t.verdict for t in result.report.choice.trials} == {"rejected: it does not"}


@pytest.mark.usefixtures("quick")
def test_without_judgements_the_overlap_decides(tmp_path: Path, bert: Path) -> None:
    unjudged = write_set(tmp_path / "unjudged", queries=500, qrels=False)
    result = export(auto(tmp_path / "out", bert, unjudged))
    assert [(s.queries, s.judged) for s in result.report.choice.sets] == [(500, False)]
    for trial in result.report.choice.trials:
        if trial.ranked:
            assert trial.ranked.pooled is None
            assert (trial.ranked.overlap >= 0.97) == (not trial.verdict.startswith("rejected"))


@pytest.mark.usefixtures("quick")
def test_a_look_up_query_side_and_a_bundled_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the document side has recipes; the bundled words are mostly unknown to the tiny vocabulary."""
    source = tmp_path / "c"
    checkpoints.write_idf(source)
    options = OpenOptions(family="opensearch-doc")
    result = export(auto(tmp_path / "out", source, max_ndcg_drop=0.5, options=options))
    assert {t.role for t in result.report.choice.trials} == {"document"}
    assert [s.name for s in result.report.choice.sets] == ["boolq/train"]
    assert len(open_artifact(tmp_path / "out", "query").manifest.variants) == 1


@pytest.mark.usefixtures("quick")
def test_a_search_can_be_taken_up_again(
    tmp_path: Path, bert: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export(auto(tmp_path / "a", bert, judged, search_cache=tmp_path / "cache"))
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.npz")}
    assert kept
    second = export(auto(tmp_path / "b", bert, judged, search_cache=tmp_path / "cache"))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.npz")} == kept
    assert first.report.choice == second.report.choice


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"role": "query"}, "needs both sides: export the whole pair"),
        ({"eval_data": ("nowhere",)}, "nowhere is not a directory"),
        ({"max_ndcg_drop": -1}, "--max-ndcg-drop -1 is not possible"),
        ({"recipes": {}, "eval_data": ("x",)}, "are for --recipe auto"),
    ],
)
def test_what_auto_cannot_do(tmp_path: Path, pair: Path, options: dict, message: str) -> None:
    given = {"recipes": {"onnx": "auto"}, "backends": ("onnx",), **options}
    with pytest.raises(InputError, match=message):
        export(ExportRequest(output=tmp_path / "out", checkpoint=str(pair), options=OpenOptions(), **given))


def test_two_sets_of_one_name(tmp_path: Path, pair: Path, judged: Path) -> None:
    with pytest.raises(InputError, match="same name"):
        export(auto(tmp_path / "out", pair, judged, judged))


@pytest.mark.usefixtures("quick")
def test_recipes_are_ranked_with_the_idf_of_a_search(
    tmp_path: Path, pair: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    powers = set()

    class Recorded(ranking.Collection):
        def __init__(self, documents: SparseBatch, *, impacts: bool, idf: float = 0.0) -> None:
            super().__init__(documents, impacts=impacts, idf=idf)
            powers.add(idf)

    monkeypatch.setattr(search, "Collection", Recorded)
    export(auto(tmp_path / "out", pair, judged, max_ndcg_drop=0.05, options=OpenOptions(query_idf=0.5)))
    assert powers == {0.5}


@pytest.mark.usefixtures("quick")
def test_few_graphs_are_open_at_a_time(
    tmp_path: Path, pair: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All recipes of a BERT-base at once would take over ten gigabytes."""
    opened: list[weakref.ref[Encoder]] = []
    alive: list[int] = []

    class Counted(Encoder):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            opened.append(weakref.ref(self))
            alive.append(sum(encoder() is not None for encoder in opened))

    monkeypatch.setattr(search, "Encoder", Counted)
    export(auto(tmp_path / "out", pair, judged, max_ndcg_drop=0.05))
    assert len(opened) > 8
    assert max(alive) == 1


def test_a_set_that_rejects_ends_the_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("fine", "ruined", "never asked for")
    queries = [Query(str(i), "") for i in range(50)]
    documents = [Document(str(i)) for i in range(50)]
    qrels = {str(i): {str(i): 1} for i in range(50)}
    sets = [RetrievalSet(name, documents, queries, qrels) for name in names]
    chooser = Chooser(sets, max_ndcg_drop=0.002, cache=None, run=lambda what, action: action())
    asked = []

    def rankings(place: int, sides: dict, *, impacts: bool) -> list[Any]:
        asked.append(names[place])
        wrong = impacts and names[place] == "ruined"
        return [np.array([(i + wrong) % 50]) for i in range(50)]

    monkeypatch.setattr(chooser, "_rankings_of", rankings)
    ranked = chooser._rank({}, {})
    assert asked == ["fine", "fine", "ruined", "ruined"]
    assert list(ranked.sets) == ["fine", "ruined"]
    assert ranked.pooled is None
    assert ranked.overlap == 0.5
    assert chooser._problem(ranked) == "nDCG@10 -1.0000 [-1.0000, -1.0000] on ruined"


class Parity:
    def __init__(self, cosine: float, overlap: float = 1.0) -> None:
        self.cosine_mean = cosine
        self.ranking_overlap = overlap


def candidates(*facts: tuple[str, float, float]) -> list[Candidate]:
    """(recipe, cost, cosine), each with a graph that is never run."""
    found = [Candidate(choose_recipe("onnx", "max", name), graph=object()) for name, *_ in facts]
    for candidate, (_, cost, cosine) in zip(found, facts, strict=True):
        candidate.cost, candidate.parity = cost, Parity(cosine)
    return found


def decide(found: list[Candidate], drops: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> Candidate | None:
    """The choice where each recipe's pooled difference is as given; others must not be ranked."""
    by_graph = {id(c.graph): drops.get(c.recipe.name) for c in found}
    run: Callable[[str, Callable[[], Any]], Any] = lambda what, action: action()  # noqa: E731
    chooser = Chooser([], max_ndcg_drop=0.002, cache=None, run=run)

    def rank(sides: dict, exact: dict) -> Ranked:
        drop = by_graph[id(sides["query"])]
        assert drop is not None, "this one was not to be ranked"
        return Ranked({}, drop, 1.0)

    monkeypatch.setattr(chooser, "_rank", rank)
    contender: Any = type("C", (), {"role": "query", "backend": "onnx"})
    return chooser._fastest_that_holds(contender, found, {}, {}, "chosen")


def test_the_order_of_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = candidates(
        ("dynamic-vnni", 0.4, 0.98), ("rows", 0.5, 0.99), ("rows-vnni", 0.52, 0.995), ("vocabulary", 0.6, 0.999),
        ("decoder", 1.1, 1.0),
    )  # fmt: skip
    best = decide(found, {"dynamic-vnni": -0.0021, "rows": -0.002, "rows-vnni": 0.001}, monkeypatch)
    assert best is found[2], "as fast as the fastest that holds, and nearer to float32"
    assert [c.verdict for c in found] == [
        "rejected: nDCG@10 -0.0021 over all queries, at most -0.002 is allowed",
        "holds; as fast as the chosen one, and larger or less near to float32",
        "chosen",
        "not ranked: slower than the chosen one",
        "not ranked: no faster than float32",
    ]


def test_of_two_as_fast_the_much_larger_one_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = candidates(("rows", 0.5, 0.99), ("decoder", 0.5, 0.999), ("rows-vnni", 0.51, 0.995))
    for candidate, size in zip(found, (10, 25, 20), strict=True):
        candidate.size = size
    assert decide(found, dict.fromkeys(("rows", "decoder", "rows-vnni"), 0.0), monkeypatch) is found[2]


def test_a_recipe_that_scrambles_the_parity_text_is_not_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = candidates(("dynamic", 0.4, 0.5), ("vocabulary", 0.5, 0.999))
    found[0].parity = Parity(0.5, overlap=0.6)
    assert decide(found, {"vocabulary": 0.0}, monkeypatch) is found[1]
    assert found[0].verdict == "not ranked: keeps 60% of the ten best of the parity paragraphs"


def test_a_mean_near_zero_by_luck_does_not_hold() -> None:
    chooser = Chooser([], max_ndcg_drop=0.002, cache=None, run=lambda what, action: action())
    assert chooser._problem(Ranked({}, -0.0003, 0.98, (-0.0049, 0.004))) == ""
    problem = chooser._problem(Ranked({}, -0.0003, 0.98, (-0.0062, 0.0058)))
    assert problem == "nDCG@10 -0.0003 [-0.0062, +0.0058] over all queries may be under -0.005"


def test_one_set_can_reject_what_the_mean_allows() -> None:
    chooser = Chooser([], max_ndcg_drop=0.002, cache=None, run=lambda what, action: action())
    fine = SetDifference(0.5, 0.0, -0.01, 0.01)
    assert chooser._problem(Ranked({"a": fine, "b": SetDifference(0.5, -0.006, -0.012, -0.004)}, -0.001, 1.0)) == ""
    problem = chooser._problem(Ranked({"a": fine, "b": SetDifference(0.5, -0.009, -0.012, -0.0051)}, -0.001, 1.0))
    assert problem == "nDCG@10 -0.0090 [-0.0120, -0.0051] on b"


def test_rankings_must_overlap_with_and_without_judgements() -> None:
    chooser = Chooser([], max_ndcg_drop=0.002, cache=None, run=lambda what, action: action())
    for ranked in (Ranked({}, None, 0.969), Ranked({}, 0.0, 0.969, (-0.001, 0.001))):
        assert chooser._problem(ranked) == "rank-biased overlap 0.969 with float32, at least 0.97 is asked"
    assert chooser._problem(Ranked({}, None, 0.971)) == ""
    for drop, least in ((0.0, 0.99), (0.9, 0.5)):
        assert Chooser([], max_ndcg_drop=drop, cache=None, run=lambda what, action: action()).least_overlap == least
    unjudged = RetrievalSet("unjudged", [], [], {})
    assert Chooser([unjudged], max_ndcg_drop=0.9, cache=None, run=lambda what, action: action()).least_overlap == 0.97
    loose = Chooser([], max_ndcg_drop=0.01, cache=None, run=lambda what, action: action())
    assert loose._problem(Ranked({}, None, 0.86)) == ""
    assert loose.choice().least_overlap == pytest.approx(0.85)


def test_a_quantizer_that_fails_is_one_line_and_does_not_end_the_search(
    tmp_path: Path, bert: Path, judged: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("an operator\nof this graph")

    monkeypatch.setitem(backends.WRITERS["onnx"].quantizers, "quantize_vocabulary", fails)
    result = export(auto(tmp_path / "out", bert, judged, max_ndcg_drop=0.05))
    trials = {t.recipe: t for t in result.report.choice.trials}
    assert trials["vocabulary"].verdict.startswith(
        "failed: the recipe 'vocabulary' does not quantize this architecture"
    )
    assert any(t.chosen for t in trials.values())
    with pytest.raises(ExportError, match=r"KeyError: .*an operator.*choose another --recipe") as caught:
        export(ExportRequest(output=tmp_path / "b", checkpoint=str(bert), backends=("onnx",)))
    assert "\n" not in str(caught.value)
