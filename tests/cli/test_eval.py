from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

from .conftest import Cli

pytest.importorskip("ir_measures")


@pytest.fixture
def qrels(tmp_path: Path) -> Path:
    path = tmp_path / "qrels.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq1\tcats\t1\nq2\twings\t1\nq3\tbread\t1\nq4\tcats\t1\n", "utf-8")
    return path


def test_measures(cli: Cli, index: Path, queries: Path, qrels: Path) -> None:
    process = cli("eval", index, "--queries", queries, "--qrels", qrels)
    # q4 has no known word, finds nothing and counts as 0
    assert process.stdout.split() == ["queries", "4", "nDCG@10", "0.7500", "RR@10", "0.7500", "R@100", "0.7500"]
    assert process.stderr == "splade-edge: warning: 1 of the queries found nothing\n"


def test_json_and_saved_run(cli: Cli, index: Path, queries: Path, qrels: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.txt"
    process = cli(
        "eval", index, "--queries", queries, "--qrels", qrels, "--measures", "P@1 AP", "--json", "--save-run", run
    )
    result = json.loads(process.stdout)
    assert result == {"queries": 4, "unjudged": 0, "unasked": 0, "k": 1000, "measures": {"P@1": 0.75, "AP": 0.75}}
    assert run.read_text("utf-8").startswith("q1 Q0 cats 1 ")


def test_queries_and_qrels_that_do_not_match_are_counted(cli: Cli, index: Path, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("q1\tcats\t1\nelsewhere\tcats\t1\n", "utf-8")
    process = cli("eval", index, "--queries", queries, "--qrels", tmp_path / "qrels.tsv", "--json")
    assert process.stderr.splitlines() == [
        "splade-edge: warning: 3 of 4 queries have no judgement and are left out",
        f"splade-edge: warning: 1 of 2 judged queries are not in {queries} and are left out",
    ]
    assert json.loads(process.stdout)["measures"]["RR@10"] == 1.0
    (tmp_path / "qrels.tsv").write_text("elsewhere\tcats\t1\n", "utf-8")
    process = cli("eval", index, "--queries", queries, "--qrels", tmp_path / "qrels.tsv", check=2)
    assert "do they belong together?" in process.stderr


@pytest.mark.parametrize("measures", ["nonsense", "nDCG@", "", "RR@10 foo@3"])
def test_unknown_measures(cli: Cli, index: Path, queries: Path, qrels: Path, measures: str) -> None:
    process = cli("eval", index, "--queries", queries, "--qrels", qrels, "--measures", measures, check=2)
    assert "try 'nDCG@10 RR@10 R@100'" in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("qrels", "options", "message"),
    [
        (
            "q1\tcats\t1\nq1\tcats\t0\n",
            (),
            "qrels.tsv:2: the document 'cats' was judged 1 for the same query; keep one",
        ),
        ("q1 0 cats 1\nq1 0 cats 2\n", (), "qrels.tsv:2: the document 'cats' was judged 1"),
        ("q1\tother\t1\n", (), "none of the 1 document judged in"),
        ("cats\tq1\t1\n", (), "in its column of documents; the order is query, document, grade"),
        ("q1\tcats\t1\n", ("--measures", "RBP"), "ir-measures cannot compute RBP here (Unsupported measures"),
        (
            "q1\tcats\t1\n",
            ("--measures", "INST"),
            "INST here (it needs a value for max_rel); leave it out, or take one",
        ),
        ("q1\tcats\t1\n", ("--measures", "BPM"), "BPM here (it needs a cutoff, as in P@10); leave it out, or take one"),
        ("q1\tcats\t1\n", ("--measures", "P"), "P here (it needs a cutoff, as in P@10)"),
        ("q1\tcats\t1\n", ("--measures", "nDCG@0"), "nDCG@0 has a cutoff of 0; give a whole number of at least 1"),
        ("q1\tcats\t1\n", ("--measures", "Judged@0"), "Judged@0 has a cutoff of 0"),
        ("q1\tcats\t1\n", ("--measures", "P(cutoff='a')"), "has a cutoff of 'a'"),
        ("q1\tcats\t1\n", ("-k", 5), "-k 5 is less than nDCG@10 looks at; leave -k out"),
        ("q1\tcats\t99999999999\n", (), "is beyond 31 bits"),
        ("q1\tcats\t1\n", ("--from-run", "x"), "give either the directory of an index or --from-run RUN"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    cli: Cli, index: Path, queries: Path, tmp_path: Path, qrels: str, options: tuple[object, ...], message: str
) -> None:
    (tmp_path / "qrels.tsv").write_text(qrels, "utf-8")
    process = cli("eval", index, "--queries", queries, "--qrels", tmp_path / "qrels.tsv", *options, check=2)
    [line] = [line for line in process.stderr.splitlines() if ": error: " in line]
    assert message in line
    assert process.stdout == ""


def test_measures_that_are_named_instead_work() -> None:
    from splade_edge.runtime.evaluation.measures import WORKING, check_computable, parse_measures

    check_computable(parse_measures(WORKING), {"q": {"a": 1}})


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(25, ["perl", "/tmp/x", "10"]),
        FileNotFoundError(2, "No such file or directory", "perl"),
        RuntimeError(f"bad {object()}"),
    ],
)
def test_words_of_the_library_that_help_nobody(error: Exception) -> None:
    from splade_edge.runtime.errors import InputError
    from splade_edge.runtime.evaluation import measures as evaluation

    def fail() -> None:
        with evaluation._library("ERR@10"):
            raise error

    with pytest.raises(InputError) as caught:
        fail()
    assert str(caught.value).startswith(
        "ir-measures cannot compute ERR@10 here (a program that it runs for that fails);"
    )
    assert "perl" not in str(caught.value)
    assert "nDCG@10" in str(caught.value)


def test_measures_without_a_cutoff_are_of_the_results(cli: Cli, index: Path, queries: Path, qrels: Path) -> None:
    """What that is, is said."""
    arguments = ("eval", index, "--queries", queries, "--qrels", qrels)
    said = cli(*arguments, "--measures", "AP RR P@1", "-k", 2).stdout
    assert "2 a query at most, and AP, RR of these" in " ".join(said.split())
    assert "1,000 a query at most, and AP of these" in " ".join(cli(*arguments, "--measures", "AP").stdout.split())
    assert "at most" not in cli(*arguments, "--measures", "P@1").stdout
    assert json.loads(cli(*arguments, "--measures", "AP", "-k", 2, "--json").stdout)["k"] == 2


def test_a_tool_that_writes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """What the programs behind ir-measures write is dropped; what they raise is told in one line."""
    import os

    from splade_edge.runtime.errors import InputError
    from splade_edge.runtime.evaluation import measures as evaluation

    def fail() -> None:
        with evaluation._library("M"):
            os.write(2, b"format error\n")
            raise RuntimeError("it is\nbroken")

    with pytest.raises(InputError, match=r"cannot compute M here \(it is broken\)"):
        fail()
    assert capfd.readouterr().err == ""


def test_columns_by_their_header(cli: Cli, index: Path, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("corpus-id\tscore\tquery-id\ncats\t1\tq1\n", "utf-8")
    process = cli("eval", index, "--queries", queries, "--qrels", tmp_path / "qrels.tsv", "--json")
    assert json.loads(process.stdout)["measures"]["RR@10"] == 1.0


def test_judged_documents_that_are_not_found(cli: Cli, index: Path, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("q4\tcats\t1\nq1\tother\t1\n", "utf-8")
    process = cli("eval", index, "--queries", queries, "--qrels", tmp_path / "qrels.tsv")
    assert "warning: no document that was found is judged" in process.stderr


def test_judged_only_looks_deeper(cli: Cli, index: Path, queries: Path, qrels: Path) -> None:
    process = cli(
        "eval", index, "--queries", queries, "--qrels", qrels, "--measures", "nDCG(judged_only=True)@1", "--json"
    )
    assert json.loads(process.stdout)["k"] == 1000


def test_queries_that_are_documents(cli: Cli, index: Path, tmp_path: Path) -> None:
    """BEIR leaves out the document that has the query's id."""
    text = "a recipe of bread is flour water salt and an oven"
    (tmp_path / "queries.tsv").write_text(f"bread\t{text}\n", "utf-8")
    (tmp_path / "qrels.tsv").write_text("bread\twings\t1\n", "utf-8")
    arguments = ("eval", index, "--queries", tmp_path / "queries.tsv", "--qrels", tmp_path / "qrels.tsv", "--json")
    before = cli(*arguments)
    assert (
        "1 query found itself, a document with its id and text; BEIR leaves these out: --exclude-self" in before.stderr
    )
    after = cli(*arguments, "--exclude-self", "--save-run", tmp_path / "run.txt")
    assert after.stderr == ""
    ranks = [json.loads(result.stdout)["measures"]["RR@10"] for result in (before, after)]
    assert 0 < ranks[0] < ranks[1]
    found = [line.split()[2] for line in (tmp_path / "run.txt").read_text("utf-8").splitlines()]
    assert "bread" not in found
    (tmp_path / "other.txt").write_text("bread Q0 bread 1 9 x\nbread Q0 wings 2 8 x\n", "utf-8")
    run = cli("eval", "--from-run", tmp_path / "other.txt", *arguments[4:], "--exclude-self")
    assert json.loads(run.stdout)["measures"]["RR@10"] == 1.0


def test_a_foreign_run(cli: Cli, index: Path, queries: Path, qrels: Path, tmp_path: Path) -> None:
    """The measures of our own run, saved and read again, are the same; scores decide, then ranks."""
    arguments = ("--queries", queries, "--qrels", qrels, "--json", "--measures", "nDCG@10 AP P@1")
    searched = json.loads(cli("eval", index, *arguments, "--save-run", tmp_path / "run.txt").stdout)
    read = cli("eval", "--from-run", tmp_path / "run.txt", *arguments)
    assert json.loads(read.stdout) == searched
    assert "1 of 4 judged queries are not in" in read.stderr  # q4 finds nothing
    lines = (tmp_path / "run.txt").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "run.txt").write_text("".join(reversed(lines)), "utf-8")
    assert json.loads(cli("eval", "--from-run", tmp_path / "run.txt", *arguments).stdout) == searched
    from splade_edge.runtime.evaluation.trec import read_run

    (tmp_path / "run.txt").write_text("q Q0 b 2 1 x\nq Q0 a 1 1 x\nq Q0 c 9 1.5 x\n", "utf-8")
    assert read_run(str(tmp_path / "run.txt")) == {"q": [("c", 1.5), ("a", 1.0), ("b", 1.0)]}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("q1 Q0 cats 1 2.0\n", "run.txt:1: 5 columns where a TREC run has 6"),
        ("q1 Q0 cats 1 x t\n", "run.txt:1: the score 'x' is not a number; the columns are query Q0 document rank"),
        ("q1 Q0 cats 1 nan t\n", "run.txt:1: the score 'nan' is not a number"),
        ("q1 Q0 cats 1 2 t\nq1 Q0 cats 2 1 t\n", "run.txt:2: the document 'cats' is there twice for the query 'q1'"),
        ("", "holds no run"),
        ("other Q0 cats 1 2 t\n", "has none of the judged queries; do they belong together?"),
    ],
)
def test_bad_runs(cli: Cli, qrels: Path, tmp_path: Path, run: str, message: str) -> None:
    (tmp_path / "run.txt").write_text(run, "utf-8")
    process = cli("eval", "--from-run", tmp_path / "run.txt", "--qrels", qrels, check=2)
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    for option, value in (("--where", "a = 1"), ("--backend", "onnx"), ("--precision", "int8"), ("--threads", 1)):
        process = cli("eval", "--from-run", "x", "--qrels", qrels, option, value, check=2)
        assert f"{option} is for searching" in process.stderr


def test_two_runs_are_compared(cli: Cli, index: Path, queries: Path, qrels: Path, tmp_path: Path) -> None:
    (tmp_path / "worse.txt").write_text("".join(f"q{n} Q0 music 1 1 x\n" for n in range(1, 5)), "utf-8")
    arguments = ("eval", index, "--queries", queries, "--qrels", qrels, "--compare", tmp_path / "worse.txt")
    compared = json.loads(cli(*arguments, "--json").stdout)["compared"]
    assert compared["measures"]["RR@10"] == 0.0
    assert compared["differences"]["RR@10"] == 0.75
    assert compared["p"]["RR@10"] == pytest.approx(4 / 16)  # 3 of 4 differ: all three signs the same, and either of q4
    shown = cli(*arguments).stdout
    assert shown.split("\n")[1].split()[-2:] == ["difference", "p"]
    assert "+0.7500  0.2500" in shown


def test_a_chance_that_is_small_is_not_none(cli: Cli, tmp_path: Path) -> None:
    for name, line in (
        ("qrels", "q{} 0 right 1\n"), ("best", "q{} Q0 right 1 1 x\n"), ("worst", "q{} Q0 wrong 1 1 x\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text("".join(line.format(n) for n in range(40)), "utf-8")
    process = cli(
        "eval", "--from-run", tmp_path / "best", "--qrels", tmp_path / "qrels", "--compare", tmp_path / "worst"
    )
    assert process.stdout.split()[-1] == "<0.0001"


@pytest.mark.parametrize("queries", [5, 12, 60])
def test_the_paired_test(queries: int) -> None:
    """Against SciPy's permutation test: exact where it is, else within what 100,000 random signs can tell."""
    import numpy as np
    from scipy.stats import permutation_test
    from splade_edge.runtime.evaluation.measures import randomisation_test

    rng = np.random.default_rng(queries)
    differences = rng.normal(0.2, 0.5, queries)
    theirs = permutation_test(
        (differences, np.zeros(queries)),
        lambda x, y: x.mean() - y.mean(),
        permutation_type="samples",
        n_resamples=20_000,
        rng=rng,
    )
    tolerance = 1e-12 if queries < 16 else 0.01
    if queries >= 14:  # SciPy samples where there are more assignments than n_resamples
        assert abs(randomisation_test(differences) - theirs.pvalue) < tolerance
    else:
        assert randomisation_test(differences) == pytest.approx(theirs.pvalue, abs=tolerance)
    assert randomisation_test(np.zeros(queries)) == 1.0


def test_the_returned_order_is_what_is_measured() -> None:
    """Tools order equal scores by id; here rank decides, so the second of two equal documents has RR 1/2."""
    import ir_measures
    from splade_edge.runtime.evaluation.measures import evaluate

    measures = [ir_measures.parse_measure(name) for name in ("RR@10", "nDCG@10")]
    for ranking in (["a", "z"], ["z", "a"]):
        values = evaluate(measures, {"q": {ranking[1]: 1}, "none": {"a": 1}}, {"q": ranking, "none": []})
        assert values["RR@10"] == pytest.approx(0.5 / 2)
        assert values["nDCG@10"] == pytest.approx(1 / math.log2(3) / 2)


def test_without_the_extra(
    index: Path, queries: Path, qrels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from splade_edge.runtime.cli.main import main

    monkeypatch.setitem(sys.modules, "ir_measures", None)
    assert main(["eval", str(index), "--queries", str(queries), "--qrels", str(qrels)]) == 2
    assert capsys.readouterr().err == (
        "splade-edge: error: splade-edge eval needs the [eval] extra: "
        "pip install 'splade-edge[eval]' (in a clone: pip install '.[eval]')\n"
    )
