from __future__ import annotations

from pathlib import Path

import pytest
from splade_edge.models.checkpoint import OpenOptions, holds_pair, open_checkpoint
from splade_edge.runtime.errors import CheckpointError, SpladeEdgeError

from .. import checkpoints


@pytest.mark.parametrize("router", [True, False])
@pytest.mark.parametrize(("own", "other"), [("query", "document"), ("document", "query")])
def test_efficient_splade_hub_layout(tmp_path: Path, own: str, other: str, router: bool) -> None:
    path = str(checkpoints.write_hub_pair(tmp_path / "c", own, other, router=router))
    assert holds_pair(path)
    mine, theirs = open_checkpoint(path, own), open_checkpoint(path, other)
    assert (mine.model.config.model_type, theirs.model.config.model_type) == ("distilbert", "bert")
    assert (mine.role, theirs.role) == (own, other)
    assert mine.family.name == theirs.family.name == "efficient-splade"
    assert mine.weights_sha256 != theirs.weights_sha256
    with pytest.raises(CheckpointError, match="choose one with --role"):
        open_checkpoint(path)


def test_pair_layout(tmp_path: Path) -> None:
    path = str(checkpoints.write_pair(tmp_path / "c"))
    assert holds_pair(path)
    query, document = open_checkpoint(path, "query"), open_checkpoint(path, "document")
    assert query.weights_sha256 != document.weights_sha256
    assert query.licence == document.licence == "apache-2.0"


def test_plain_layout_serves_both_sides_or_the_one_asked_for(bert: Path) -> None:
    assert not holds_pair(str(bert))
    assert open_checkpoint(str(bert)).role == "both"
    assert open_checkpoint(str(bert), "query").role == "query"


@pytest.mark.parametrize(
    ("pooling", "activation", "family", "ours"),
    [
        ("max", "relu", "splade", "log1p_relu"),
        ("sum", "relu", "splade-v1", "log1p_relu"),
        ("max", "log1p_relu", "splade-other", "log1p_log1p_relu"),
    ],
)
def test_sentence_transformers_layout(tmp_path: Path, pooling: str, activation: str, family: str, ours: str) -> None:
    path = checkpoints.write_sentence_transformers(tmp_path / "c", pooling=pooling, activation=activation)
    checkpoint = open_checkpoint(str(path))
    assert (checkpoint.family.name, checkpoint.pooling, checkpoint.activation) == (family, pooling, ours)
    assert checkpoint.max_length == 24
    assert checkpoint.role == "both"


@pytest.mark.parametrize(
    ("module", "weight", "side"),
    [
        ("SparseStaticEmbedding", 2.0, "look-up"),
        ("IDF", 2.0, "look-up"),
        ("SparseStaticEmbedding", 1.0, "bag of words"),
    ],
)
def test_a_query_side_without_an_encoder_is_refused_by_name(
    tmp_path: Path, module: str, weight: float, side: str
) -> None:
    path = str(checkpoints.write_look_up_router(tmp_path / "c", module, weight))
    document = open_checkpoint(path, "document")
    assert (document.role, document.query_side) == ("document", side)
    for role in ("query", None):
        with pytest.raises(CheckpointError, match=rf"'{side}'.*exports encoders only.*--role document"):
            open_checkpoint(path, role)


def test_an_idf_file_means_a_look_up_query_side(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "opensearch-neural-sparse-encoding-doc-v2-distill", "distilbert")
    (path / "idf.json").write_text('{"the": 0.1}')
    checkpoint = open_checkpoint(str(path), "document")
    assert checkpoint.family.name == "opensearch-doc"
    assert checkpoint.dropped_terms == (0, 1, 2, 3, 4)
    with pytest.raises(CheckpointError, match="look-up"):
        open_checkpoint(str(path), "query")


def test_a_lexical_family_by_name_refuses_its_query_side(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "splade-v3-lexical")
    assert open_checkpoint(str(path), "document").family.name == "splade-v3-lexical"
    with pytest.raises(CheckpointError, match="masked encoder"):
        open_checkpoint(str(path), "query")


def test_other_modules_are_refused(tmp_path: Path) -> None:
    path = checkpoints.write_sentence_transformers(tmp_path / "c")
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    checkpoints.write_json(path / "modules.json", [{"type": f"x.{kind}", "path": at} for kind, at in modules])
    with pytest.raises(CheckpointError, match="made of Transformer, Pooling, Normalize"):
        open_checkpoint(str(path))


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    path = checkpoints.write_sentence_transformers(tmp_path / "c", activation="gelu")
    with pytest.raises(CheckpointError, match="activation_function 'gelu'"):
        open_checkpoint(str(path))


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}'])
def test_a_broken_list_of_modules(tmp_path: Path, text: str) -> None:
    path = checkpoints.write_sentence_transformers(tmp_path / "c")
    (path / "modules.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        open_checkpoint(str(path))


def test_a_path_out_of_the_checkpoint_is_not_followed(tmp_path: Path) -> None:
    path = checkpoints.write_sentence_transformers(tmp_path / "c")
    modules = [("MLMTransformer", "../elsewhere"), ("SpladePooling", "1_SpladePooling")]
    checkpoints.write_json(path / "modules.json", [{"type": f"x.{kind}", "path": at} for kind, at in modules])
    with pytest.raises(SpladeEdgeError, match="outside the directory"):
        open_checkpoint(str(path))


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no encoder"):
        open_checkpoint(str(tmp_path))


def test_a_family_can_be_named(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c")
    assert open_checkpoint(str(path), options=OpenOptions(family="splade-v1")).pooling == "sum"
