from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from splade_edge.models.custom_family import EXAMPLE, family_from, read_family
from splade_edge.models.opening import holds_pair, open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.models.reference import ReferenceEncoder
from splade_edge.runtime.errors import CheckpointError

from .. import checkpoints

SMALL = 'name = "mine"\npooling = "sum"\nactivation = "relu"\nquery_side = "same encoder"\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(text)
    return path


def test_the_example_of_the_help_is_a_family(tmp_path: Path) -> None:
    family = read_family(write(tmp_path, EXAMPLE))
    assert (family.name, family.pooling, family.activation) == ("my-splade", "max", "log1p_relu")
    assert family.query_sides == ("look-up",)
    assert (family.query_dropped, family.document_dropped, family.max_length) == (("all",), (), 512)


def test_a_name_or_a_file() -> None:
    assert family_from("splade").name == "splade"
    assert family_from(family_from("splade")).name == "splade"
    with pytest.raises(CheckpointError, match=r"cannot read the family file nowhere\.toml: No such file"):
        family_from("nowhere.toml")
    with pytest.raises(CheckpointError, match="no family 'splad'"):
        family_from("splad")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not TOML: "),
        ('name = "x"', "missing required field `pooling`"),
        (SMALL + "colour = 1", "unknown field `colour`"),
        (SMALL.replace('"sum"', '"mean"'), "pooling: Invalid enum value 'mean'; there are: max, sum"),
        (SMALL.replace('"relu"', '"gelu"'), "activation: Invalid enum value 'gelu'; there are: log1p_relu, "),
        (SMALL.replace('"same encoder"', '"none"'), "query_side: .*; there are: same encoder, own encoder"),
        (SMALL + 'query_dropped = ["cls"]', r"query_dropped has 'cls'; there are: all, bos_token, cls_token"),
        (SMALL + "max_length = 0", "max_length: Expected `int` >= 3"),
        (SMALL + 'look_up = "a.json"', 'look_up needs query_side = "look-up"'),
        (SMALL.replace('"mine"', '"a b"'), "name: "),
    ],
)
def test_a_family_file_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_family(write(tmp_path, text))
    assert "my.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(CheckpointError, match="is not UTF-8"):
        read_family(path)


def test_a_custom_family_decides_the_formula(tmp_path: Path) -> None:
    source = checkpoints.write_checkpoint(tmp_path / "c")
    opened = open_checkpoint(str(source), options=OpenOptions(family=str(write(tmp_path, SMALL))))
    assert (opened.family.name, opened.pooling, opened.activation) == ("mine", "sum", "relu")
    found = ReferenceEncoder(opened).encode(["the steam engine"])[0]
    logits = opened.model(**opened.tokenizer("the steam engine", return_tensors="pt")).logits[0]
    np.testing.assert_allclose(found, logits.relu().sum(dim=0).detach().numpy(), atol=1e-5)


def test_a_custom_look_up_names_its_file(tmp_path: Path) -> None:
    source = checkpoints.write_checkpoint(tmp_path / "c")
    checkpoints.write_json(source / "weights.json", {"steam": 3.0})
    text = SMALL.replace("same encoder", "look-up") + 'look_up = "weights.json"\n'
    options = OpenOptions(family=str(write(tmp_path, text)))
    assert holds_pair(str(source), options)
    query = open_checkpoint(str(source), "query", options)
    assert query.table is not None
    assert query.table[query.tokenizer.convert_tokens_to_ids("steam")] == 3
    for outside in ("other.json", "../weights.json"):
        checkpoints.write_json(tmp_path / "weights.json", {"steam": 3.0})
        options = OpenOptions(family=str(write(tmp_path, text.replace("weights.json", outside))))
        with pytest.raises(CheckpointError, match="has no file"):
            open_checkpoint(str(source), "query", options)


def test_a_custom_family_must_not_contradict_the_checkpoint(tmp_path: Path) -> None:
    source = checkpoints.write_sentence_transformers(tmp_path / "c")
    path = write(tmp_path, SMALL)
    with pytest.raises(CheckpointError, match=r"states pooling 'max', the family mine has 'sum'; change .*my\.toml"):
        open_checkpoint(str(source), options=OpenOptions(family=str(path)))
