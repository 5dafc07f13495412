from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from splade_edge.models.opening import holds_pair, open_checkpoint
from splade_edge.models.options import OpenOptions
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
def test_a_query_side_without_an_encoder(tmp_path: Path, module: str, weight: float, side: str) -> None:
    weights = [weight] * (checkpoints.VOCABULARY - 3)  # tables may end before the vocabulary does
    path = str(checkpoints.write_look_up_router(tmp_path / "c", module, weights))
    assert holds_pair(path)
    document, query = open_checkpoint(path, "document"), open_checkpoint(path, "query")
    assert (document.role, document.query_side, document.table) == ("document", side, None)
    assert (query.role, query.query_side, query.model, query.lexical_only) == ("query", side, None, True)
    assert query.vocab_size == document.vocab_size
    assert query.dropped_terms == (), "what gets no weight is the table's to say"
    assert not query.adds_special_tokens
    assert query.token_ids("[SEP] steam", "query") == [3, query.tokenizer.convert_tokens_to_ids("steam")]
    expected = np.full(checkpoints.VOCABULARY, weight, np.float32)
    expected[-3:] = 0
    np.testing.assert_array_equal(query.table, expected)
    with pytest.raises(CheckpointError, match="a query and a document side; choose one with --role"):
        open_checkpoint(path)


def test_a_look_up_may_name_a_json_file(tmp_path: Path) -> None:
    path = checkpoints.write_look_up_router(tmp_path / "c", "IDF")
    (path / "query_0_IDF" / "model.safetensors").unlink()
    checkpoints.write_json(path / "query_0_IDF" / "config.json", {"path": "idf.json", "frozen": True})
    checkpoints.write_json(path / "idf.json", {"steam": 7.5, "no such token": 1})
    query = open_checkpoint(str(path), "query", OpenOptions(family="opensearch-doc"))
    assert query.table is not None
    assert query.table[query.tokenizer.convert_tokens_to_ids("steam")] == 7.5
    assert np.count_nonzero(query.table) == 1
    assert query.notes == ("1 tokens of idf.json are not in the vocabulary",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "not an object of token -> weight"),
        ("{", "not an object"),
        ('{"steam": "much"}', "not an object"),
        ('{"steam": -1}', r"the weight -1\.0 for term \d+; weights must be finite and not negative"),
        ('{"steam": 1e300}', "finite"),
        ('{"nothing": 1}', "no token of the vocabulary"),
        ('{"steam": 0}', "no term any weight"),
    ],
)
def test_a_broken_look_up(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c"
    checkpoints.write_idf(path)
    (path / "idf.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path), "query", OpenOptions(family="opensearch-doc"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([2.0] * (checkpoints.VOCABULARY + 1), "do not belong together"),
        ([[1.0, 2.0]], "a look-up is one weight a term"),
        ([float("nan")], "finite"),
    ],
)
def test_a_look_up_tensor_that_is_none(tmp_path: Path, weights: list, message: str) -> None:
    path = checkpoints.write_look_up_router(tmp_path / "c", "IDF", weights)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path), "query", OpenOptions(family="opensearch-doc"))


def test_an_idf_file_means_a_look_up_query_side(tmp_path: Path) -> None:
    path = tmp_path / "opensearch-neural-sparse-encoding-doc-v2-distill"
    idf = checkpoints.write_idf(path)
    with pytest.raises(CheckpointError, match="choose --family opensearch-doc-v3 or --family opensearch-doc"):
        open_checkpoint(str(path), "document")  # the name of a directory tells nothing
    options = OpenOptions(family="opensearch-doc")
    assert holds_pair(str(path), options)
    document, query = (open_checkpoint(str(path), side, options) for side in ("document", "query"))
    assert document.family.name == query.family.name == "opensearch-doc"
    assert document.dropped_terms == query.dropped_terms == (0, 1, 2, 3, 4)
    assert query.table is not None
    assert query.table[query.tokenizer.convert_tokens_to_ids("warsaw")] == pytest.approx(idf["warsaw"])
    assert query.max_length == 32


def test_families_that_have_to_be_named_have_two_sides(tmp_path: Path) -> None:
    path = str(checkpoints.write_checkpoint(tmp_path / "splade-v3-lexical"))
    assert not holds_pair(path), "the name of a directory tells nothing"
    lexical = OpenOptions(family="splade-v3-lexical")
    assert holds_pair(path, lexical)
    assert open_checkpoint(path, "query", lexical).lexical_only
    assert not open_checkpoint(path, "document", lexical).lexical_only
    doc = OpenOptions(family="splade-v3-doc")
    assert holds_pair(path, doc)
    query = open_checkpoint(path, "query", doc)
    assert query.query_side == "bag of words"
    assert query.dropped_terms == (0, 2, 3), "[UNK] and [MASK] count, as in naver's code"
    assert (query.table == 1).all()
    with pytest.raises(CheckpointError, match="choose one with --role"):
        open_checkpoint(path, options=doc)


def test_a_mask_by_bag_of_words_in_the_sentence_transformers_layout(tmp_path: Path) -> None:
    ones = [1.0] * checkpoints.VOCABULARY
    path = str(checkpoints.write_look_up_router(tmp_path / "c", "SparseStaticEmbedding", ones, masked=True))
    assert holds_pair(path)
    query = open_checkpoint(path, "query")
    assert (query.family.name, query.query_side, query.lexical_only) == ("splade-v3-lexical", "masked encoder", True)
    assert query.model is not None
    weighed = checkpoints.write_look_up_router(tmp_path / "w", "SparseStaticEmbedding", masked=True)
    with pytest.raises(CheckpointError, match="weighs a query encoder by a table"):
        open_checkpoint(str(weighed), "query")


def test_a_look_up_family_without_a_table(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", "distilbert")
    with pytest.raises(CheckpointError, match=r"there is no table \(idf\.json\)"):
        open_checkpoint(str(path), "query", OpenOptions(family="opensearch-doc"))


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
