from __future__ import annotations

from pathlib import Path

import pytest
from splade_edge.models.training.runfile import read_run_file
from splade_edge.runtime.errors import InputError

from .conftest import RunWriter

RUNS = Path(__file__).parents[3] / "models" / "training" / "runs"


def test_paths_are_relative_to_the_file_they_stand_in(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "common.toml").write_text(
        'name = "a"\n[document]\nbase = "base"\n[[sets]]\npath = "sets/x"\n[training]\nsteps = 3\nbatch = 2\n'
    )
    child = tmp_path / "inner" / "child.toml"
    child.write_text('extends = "../common.toml"\nname = "b"\n[query]\nbase = "q"\n[training]\nsteps = 5\n')
    run = read_run_file(child)
    assert run.name == "b"
    assert (run.training.steps, run.training.batch) == (5, 2)
    assert run.document is not None
    assert run.query is not None
    assert run.document.base == str(tmp_path / "base")
    assert run.query.base == str(tmp_path / "inner" / "q")
    assert run.sets[0].path == str(tmp_path / "sets" / "x")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("stepps = 3", "stepps"),
        ("learning_rate = -1.0", "learning_rate"),
        ('bf16 = "yes"', "bf16"),
        ("[middle]\nmask_rate = 1.5", "mask_rate"),
        ("[query_regularizer]\npenalty = 'l3'", "l3"),
        ("[", "is not TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named(write_run: RunWriter, extra: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_run_file(write_run(extra))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("chunk = 2", None),
        ("[teacher]\nlexical = 0.5", r"\[teacher\] lexical does nothing without a dense teacher"),
        ("[teacher]\nweight = 0.5", r"\[teacher\] weight does nothing without"),
        ("[teacher]\nweight = 0.0", None),
        ("[teacher]\ndense = 9.0", r"\[teacher\] dense does nothing without"),
        ("[teacher]\nidf = 1.0", r"\[teacher\] idf does nothing without query_vectors"),
        ('[teacher]\ndocument_vectors = "x"', "document_vectors does nothing without query_vectors"),
        ('[teacher]\nquery_vectors = "x"\nrandom_words = 1.0', 'random_words is for objective = "index"'),
        ("keywords = 0.5", r"\[training\] keywords is a share of the fragments"),
        ("fragments = 0.5\nkeywords = 0.5", None),
        ('[teacher]\nquery_vectors = "x"\ndocument_vectors = "x"', "document_vectors does nothing without idf"),
        ('[query_regularizer]\npenalty = "none"\nterms = 8', "terms does nothing with penalty"),
        ('[query_regularizer]\npenalty = "none"', None),
        ("negatives = 30", "negatives = 30 must be below negative_depth"),
        ("negatives = 29", None),
        ("[middle]\nmask_rate = 0.2", r"\[middle\] is for objective"),
    ],
)
def test_a_key_that_does_nothing_is_an_error(write_run: RunWriter, extra: str, message: str | None) -> None:
    path = write_run(extra)
    if message is None:
        read_run_file(path)
    else:
        with pytest.raises(InputError, match=message):
            read_run_file(path)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sharpness = 3.0", "sharpness is for a new head"),
        ("threshold = 0.1", "threshold is for a new head"),
        ("idf_slope = 0.1", "idf_slope is for a new head"),
        ("attention_heads = 4", "attention_heads is for a new, narrow encoder"),
        ('width = 16\nhead = "identity"\nlayers = []', "is an encoder without layers"),
    ],
)
def test_a_key_of_an_encoder_that_does_nothing_is_an_error(write_run: RunWriter, key: str, message: str) -> None:
    path = write_run()
    path.write_text(path.read_text().replace("[query]", f"[query]\n{key}"))
    with pytest.raises(InputError, match=rf"\[query\] .*{message.removeprefix('is ')}"):
        read_run_file(path)


@pytest.mark.parametrize("key", ["negatives = 2", "chunk = 2", 'miner = "x"', "contrastive = 0.5", "scale = 2.0"])
def test_keys_of_ranking_are_for_ranking(write_run: RunWriter, key: str) -> None:
    path = write_run(key, query=False)
    path.write_text('objective = "mlm"\n' + path.read_text())
    with pytest.raises(InputError, match=rf'{key.partition(" ")[0]} is for objective = "retrieval"'):
        read_run_file(path)


def test_what_another_file_says_may_do_nothing(write_run: RunWriter, tmp_path: Path) -> None:
    child = tmp_path / "child.toml"
    child.write_text('extends = "run.toml"\n[document]\nhead = "keep"\n[teacher]\nweight = 0.0\n')
    path = write_run('[teacher]\nbase = "t"\nlexical = 0.5\n')
    path.write_text(path.read_text().replace("[document]", '[document]\nhead = "lexical"\nsharpness = 3.0'))
    assert read_run_file(child).document.sharpness == 3.0


def test_all_shipped_run_files_are_read() -> None:
    found = [path for path in RUNS.rglob("*.toml") if path.name != "sets.toml"]
    assert len(found) > 10
    for path in found:
        read_run_file(path)


def test_defaults_of_the_regularizers_hold_key_by_key(write_run: RunWriter, tmp_path: Path) -> None:
    run = read_run_file(write_run('[query_regularizer]\npenalty = "flops"\n[document_regularizer]\nramp = 5'))
    assert (run.query_regularizer.penalty, run.query_regularizer.terms) == ("flops", 8)
    assert (run.document_regularizer.penalty, run.document_regularizer.terms) == ("flops", 150)
    assert run.document_regularizer.ramp == 5
    plain = read_run_file(write_run())
    assert (plain.query_regularizer.penalty, plain.query_regularizer.terms) == ("l1", 8)
    off = read_run_file(write_run('[query_regularizer]\npenalty = "none"'))
    assert off.query_regularizer.terms is None


def test_dev_is_another_split(write_run: RunWriter) -> None:
    path = write_run()
    text = path.read_text()
    for key, message in {
        'dev = "train"': "is what the set learns from",
        'dev_queries = "q.jsonl"': "without dev",
    }.items():
        path.write_text(text.replace("held_out = 4", key))
        with pytest.raises(InputError, match=message):
            read_run_file(path)


def test_objectives_need_their_encoders(write_run: RunWriter, tmp_path: Path) -> None:
    for objective, needs in {"mlm": "no \\[query\\]", "imitation": "no \\[document\\]"}.items():
        path = write_run()
        path.write_text(f'objective = "{objective}"\n' + path.read_text())
        with pytest.raises(InputError, match=needs):
            read_run_file(path)
    frozen = write_run(query=False)
    frozen.write_text(frozen.read_text().replace("max_length = 16", "frozen = true"))
    with pytest.raises(InputError, match="nothing to train"):
        read_run_file(frozen)


def test_a_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(InputError, match="extends itself"):
        read_run_file(tmp_path / "a.toml")
    with pytest.raises(InputError, match="cannot read"):
        read_run_file(tmp_path / "none.toml")
