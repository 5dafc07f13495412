from __future__ import annotations

from pathlib import Path

import pytest
from splade_edge.models.training.runfile import read_run_file
from splade_edge.runtime.errors import InputError

from .conftest import RunWriter


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
