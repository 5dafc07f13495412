"""Checkpoints that sentence-transformers saved itself: the runtime gives the library's own vectors, or the export says
in one line why not.

The witness inside the export is not trusted here: the library is asked again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from splade_edge.export.exporter import ExportResult, export
from splade_edge.export.parity import ParityReport
from splade_edge.export.request import ExportRequest
from splade_edge.models.options import OpenOptions
from splade_edge.runtime.artifact import is_pair, open_artifact
from splade_edge.runtime.errors import CheckpointError, InputError, MissingExtraError

from .. import architectures, library, matrix
from ..library import Normalize, Router, SpladePooling, bert, mlm, splade, table, word_piece

pytestmark = pytest.mark.usefixtures("traced_once")
LIMIT = 1e-3


@dataclass(frozen=True)
class Case:
    """``save`` writes a checkpoint of the library to a path. ``pair``: whether its sides are two artifacts."""

    name: str
    save: Callable[[Path], Any]
    pair: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def saved(model: Callable[[Path], Any], patch: Callable[[Path], Any] | None = None) -> Callable[[Path], None]:
    """A case's ``save``: of what ``model`` makes of a place for its parts, with ``patch`` applied to the files."""

    def save(path: Path) -> None:
        model(path.with_name("parts")).save_pretrained(str(path))
        if patch is not None:
            patch(path)

    return save


def one(place: Path, *more: Any, pooling: str = "max", activation: str = "relu", **settings: Any) -> Any:
    """An encoder, SPLADE pooling, and what follows."""
    made = {key: settings.pop(key) for key in ("tokenizer", "dtype", "positions") if key in settings}
    model = {key: settings.pop(key) for key in ("prompts", "max_active_dims", "similarity_fn_name") if key in settings}
    encoder = mlm(bert(place, **made), **settings)
    return splade(encoder, SpladePooling(pooling, activation), *more, **model)


def two(place: Path, *more: Any, **model: Any) -> Any:
    """A router of two encoders."""
    sides = [[mlm(bert(place / name, seed=seed)), SpladePooling()] for seed, name in enumerate(("q", "d"))]
    return splade(Router.for_query_document(*sides), *more, **model)


def look_up(place: Path, weight: Any = None, **tokenizer: Any) -> Any:
    """A router of a table and an encoder."""
    return splade(
        Router.for_query_document(
            [table(place / "t", weight, **tokenizer)], [mlm(bert(place / "d")), SpladePooling()]
        )
    )  # fmt: skip


def masked(place: Path, weight: float = 1.0) -> Any:
    """A query side that is the encoder behind a mask of the text's own terms."""
    encoder, pooling = mlm(bert(place / "d")), SpladePooling()
    mask = table(place / "t", [weight] * len(library.VOCABULARY))
    return splade(Router.for_query_document([encoder, pooling, mask], [encoder, pooling]))


def shared(place: Path, query: SpladePooling, document: SpladePooling) -> Any:
    """One encoder with a pooling a side."""
    encoder = mlm(bert(place))
    return splade(Router.for_query_document([encoder, query], [encoder, document]))


def renamed(place: Path) -> Any:
    """Routes that mappings name."""
    routes = {
        "short": [mlm(bert(place / "q", seed=1)), SpladePooling()],
        "long": [mlm(bert(place / "d", seed=2)), SpladePooling("sum")],
    }
    return splade(Router(routes, route_mappings={("query", "text"): "short", ("document", None): "long"}))


def in_chain(place: Path) -> Any:
    """A router of encoders alone, followed by modules for both."""
    encoders = Router.for_query_document([mlm(bert(place / "q", seed=1))], [mlm(bert(place / "d", seed=2))])
    return splade(encoders, SpladePooling(), Normalize())


def with_config(**values: Any) -> Callable[[Path], None]:
    return lambda path: library.edit(path / "sentence_bert_config.json", **values)


def without_config(name: str, key: str) -> Callable[[Path], None]:
    def patch(path: Path) -> None:
        stated = json.loads((path / name).read_text())
        stated.pop(key)
        (path / name).write_text(json.dumps(stated))

    return patch


def spelled_otherwise(path: Path) -> None:
    modules = json.loads((path / "modules.json").read_text())
    modules[1]["path"] = "./1_SpladePooling/"
    (path / "modules.json").write_text(json.dumps(modules))


def left(place: Path, **settings: Any) -> Any:
    return word_piece(place / "words", truncation_side="left", model_max_length=16, **settings)


PROMPTS = {"query": "query : ", "document": "passage : "}
CASES = [
    Case("plain", bert),
    Case("plain, sum is not guessed from a name", lambda p: bert(p / "splade-v1-finetuned")),
    Case("saved", saved(one)),
    Case("sum", saved(lambda p: one(p, pooling="sum"))),
    Case("two logarithms", saved(lambda p: one(p, activation="log1p_relu"))),
    Case("prompts", saved(lambda p: one(p, prompts=PROMPTS))),
    Case(
        "empty prompts win",
        saved(
            lambda p: one(p, prompts={"passage": "passage : "}),
            lambda p: library.edit(p / "config_sentence_transformers.json", default_prompt_name="passage"),
        ),
    ),
    Case("prompts of a router", saved(lambda p: two(p, prompts=PROMPTS)), pair=True),
    Case("max_active_dims", saved(lambda p: one(p, max_active_dims=4))),
    Case("cosine", saved(lambda p: one(p, similarity_fn_name="cosine"))),
    Case("cosine of the largest", saved(lambda p: one(p, similarity_fn_name="cosine", max_active_dims=3))),
    Case("normalized", saved(lambda p: one(p, Normalize()))),
    Case("the largest of what is normalized", saved(lambda p: one(p, Normalize(), max_active_dims=3))),
    Case("normalized behind a router", saved(lambda p: two(p, Normalize())), pair=True),
    Case("lengths a side", saved(lambda p: one(p, query_length=8, document_length=16))),
    Case("length of a call", saved(lambda p: one(p, processing_kwargs={"text": {"max_length": 8}}))),
    Case("length of the tokenizer", saved(lambda p: one(p, tokenizer=word_piece(p / "w", model_max_length=12)))),
    Case("length of an old file", saved(one, with_config(max_seq_length=10))),
    Case("no length stated", saved(one, without_config("tokenizer_config.json", "model_max_length"))),
    Case("lower case, of an old file", saved(lambda p: one(p, tokenizer=word_piece(p / "w", lower=False)),
                                             with_config(do_lower_case=True))),
    Case("cased", saved(lambda p: one(p, tokenizer=word_piece(p / "w", lower=False)))),
    Case("cut on the left", saved(lambda p: one(p, tokenizer=left(p)))),
    Case("special tokens are text", saved(lambda p: one(p, tokenizer=left(p, split_special_tokens=True)))),
    Case("look-up", saved(look_up), pair=True),
    Case("look-up, limited", saved(lambda p: look_up(p, model_max_length=16)), pair=True),
    Case("bag of words", saved(lambda p: look_up(p, [1.0] * len(library.VOCABULARY))), pair=True),
    Case("masked", saved(masked), pair=True),
    Case("two encoders", saved(two), pair=True),
    Case("one encoder, two poolings",
         saved(lambda p: shared(p, SpladePooling("max"), SpladePooling("sum"))), pair=True),
    Case("one encoder, two activations",
         saved(lambda p: shared(p, SpladePooling("max", "log1p_relu"), SpladePooling())), pair=True),
    Case("one encoder, one pooling", saved(lambda p: shared(p, SpladePooling(), SpladePooling()))),
    Case("routes with other names", saved(renamed), pair=True),
    Case("a router in a chain", saved(in_chain), pair=True),
    Case("Asym", saved(two, library.asym), pair=True),
    Case("paths spelled otherwise", saved(one, spelled_otherwise)),
    Case("float16", saved(lambda p: one(p, dtype=torch.float16))),
    Case("bfloat16", saved(lambda p: one(p, dtype=torch.bfloat16))),
    Case("a key nobody knows", saved(one, lambda p: library.edit(p / "config.json", my_key=1))),
]  # fmt: skip


def run(source: Path, output: Path, **options: Any) -> ExportResult:
    request = ExportRequest(
        output=output, checkpoint=str(source), backends=("onnx",), int8=False, options=OpenOptions(**options)
    )
    return export(request)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_vectors_are_the_librarys(case: Case, tmp_path: Path) -> None:
    case.save(tmp_path / "c")
    source = next((p for p in (tmp_path / "c").iterdir() if p.name == "splade-v1-finetuned"), tmp_path / "c")
    result = run(source, tmp_path / "out")
    assert is_pair(tmp_path / "out") is case.pair
    assert {w.name for w in result.report.witnesses} == {"sentence-transformers"}
    for side in ("query", "document"):
        expected = library.vectors(source, side, library.TEXTS)
        assert (expected != 0).sum(axis=1).max() > 1
        assert library.difference(tmp_path / "out", side, library.TEXTS, expected) < LIMIT


REFUSED: list[tuple[str, Callable[[Path], Any], str]] = [
    ("euclidean", saved(lambda p: one(p, similarity_fn_name="euclidean")),
     r"config_sentence_transformers\.json has similarity_fn_name 'euclidean'.*use \"dot\" or \"cosine\""),
    ("another model type", saved(one, lambda p: library.edit(p / "config_sentence_transformers.json",
                                                            model_type="SentenceTransformer")),
     r"says that this is a SentenceTransformer; only a SparseEncoder"),
    ("hidden states", saved(one, with_config(transformer_task="feature-extraction")),
     r"sentence_bert_config\.json has transformer_task 'feature-extraction'.*\"fill-mask\""),
    ("query expansion", saved(one, with_config(query_expansion={"strategy": "fixed", "length": 8})),
     r"sentence_bert_config\.json has query_expansion: queries are filled up.*remove it"),
    ("chat messages", saved(one, with_config(modality_config={
        "message": {"method": "forward", "method_output_name": "logits", "format": "flat"}})),
     r"has modality_config: .*chat messages.*save the encoder with text alone"),
    ("model arguments", saved(one, with_config(model_args={"attention_dropout": 0.5})),
     r"has model_args: arguments of the model.*put them into config\.json"),
    ("padding of a call", saved(one, with_config(processing_kwargs={"text": {"padding": "max_length"}})),
     r"processing_kwargs\.text\.padding 'max_length', which cannot be applied"),
    ("negative weights", saved(lambda p: look_up(p, [-1.0] + [1.0] * (len(library.VOCABULARY) - 1))),
     r"has the weight -1\.0 for term 0; weights must be finite and not negative"),
    ("a weighing mask", saved(lambda p: masked(p, 2.0)), r"weighs a query encoder by a table"),
    ("a table for documents", saved(lambda p: splade(table(p / "t"))), r"has a table on its document side"),
    ("normalized tokens", saved(lambda p: one(p, Normalize("token_embeddings"))),
     r"2_Normalize/config\.json has module_input_name 'token_embeddings'"),
    ("no route", saved(lambda p: splade(Router({"document": [mlm(bert(p)), SpladePooling()]}))),
     r"router_config\.json has no route for query text, but document"),
    ("no room", saved(lambda p: one(p, query_length=2)), r"cuts query texts to 2 tokens, which has no room beside 2"),
    ("no room for the prompt", saved(lambda p: one(p, query_length=4, prompts=PROMPTS)),
     r"to 4 tokens, which has no room beside 2 special tokens and 2 of the prompt.*--max-length"),
    ("relative positions", saved(one, lambda p: library.edit(p / "config.json",
                                                             position_embedding_type="relative_key")),
     r"config\.json has position_embedding_type: relative positions.*export it with the library"),
    ("quantized", saved(one, lambda p: library.edit(p / "config.json", quantization_config={"quant_method": "gptq"})),
     r"config\.json.*quanti"),
    ("pooling that is no object", saved(one, lambda p: (p / "1_SpladePooling/config.json").write_text("[1]")),
     r"1_SpladePooling/config\.json is not an object"),
    ("an activation that is no text", saved(one, lambda p: library.edit(p / "1_SpladePooling/config.json",
                                                                       activation_function=["relu"])),
     r"has activation_function \['relu'\]"),
    ("settings of a call that are no object", saved(one, with_config(processing_kwargs={"text": ["max_length"]})),
     r"has processing_kwargs\.text \['max_length'\], which is not an object"),
    ("tokenizer arguments that are no object", saved(one, with_config(tokenizer_args=[1])),
     r"has tokenizer_args \[1\], which is not an object"),
    ("a key that cannot be set", saved(one, lambda p: library.edit(p / "config.json", use_return_dict=False)),
     r"config\.json does not load \(AttributeError: .*use_return_dict"),
    ("a length that is text", saved(one, lambda p: library.edit(p / "tokenizer_config.json", model_max_length="16")),
     r"tokenizer_config\.json has model_max_length '16', which is no number of tokens; correct it"),
    ("a negative length", saved(one, lambda p: library.edit(p / "tokenizer_config.json", model_max_length=-1)),
     r"tokenizer_config\.json has model_max_length -1, which is no number of tokens; correct it"),
    ("a processor", saved(one, lambda p: library.edit(p / "preprocessor_config.json", size=1)),
     r"preprocessor_config\.json: inputs of other modalities"),
    ("chat template of a plain checkpoint", lambda p: bert(p, tokenizer=word_piece(
        p.with_name("w"), chat_template="{{ messages }}")), r"chat.template"),
    ("a link to elsewhere", saved(one, lambda p: elsewhere(p)), r"a link to outside the directory"),
    ("a path to elsewhere", saved(one, lambda p: edit_path(p, "../1_SpladePooling")), r"outside the directory"),
]  # fmt: skip


def edit_path(path: Path, to: str) -> None:
    modules = json.loads((path / "modules.json").read_text())
    modules[1]["path"] = to
    (path / "modules.json").write_text(json.dumps(modules))


def elsewhere(path: Path) -> None:
    (path / "1_SpladePooling").rename(path.with_name("pooling"))
    (path / "1_SpladePooling").symlink_to(path.with_name("pooling"))


@pytest.mark.parametrize(("save", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_cannot_be_applied_is_refused_in_one_line(
    save: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    save(tmp_path / "c")
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path / "c", tmp_path / "out")
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_route_that_is_missing_does_not_keep_the_other_side_back(tmp_path: Path) -> None:
    splade(Router({"document": [mlm(bert(tmp_path / "b")), SpladePooling()]})).save_pretrained(str(tmp_path / "c"))
    request = ExportRequest(
        output=tmp_path / "out", checkpoint=str(tmp_path / "c"), role="document", backends=("onnx",), int8=False
    )
    export(request)
    expected = library.vectors(tmp_path / "c", "document", library.TEXTS)
    assert library.difference(tmp_path / "out", "document", library.TEXTS, expected) < LIMIT


def test_what_the_user_overrides_is_asked_of_the_library_too(tmp_path: Path) -> None:
    one(tmp_path / "parts", prompts=PROMPTS, query_length=8).save_pretrained(str(tmp_path / "c"))
    asked = {"prompt_query": "the ", "prompt_document": "", "max_length": 20, "max_active_dims": 5}
    result = run(tmp_path / "c", tmp_path / "out", **asked)
    assert [w.name for w in result.report.witnesses] == ["sentence-transformers"]
    manifest = open_artifact(tmp_path / "out").manifest
    assert {s: (t.prompt, t.max_length) for s, t in manifest.sides.items()} == {
        "query": ("the ", 20),
        "document": ("", 20),
    }
    card = (tmp_path / "out" / "README.md").read_text()
    for text in ("--prompt-query 'the '", "--prompt-document ''", "--max-length '20'", "--max-active-dims '5'"):
        assert text in card


def test_unknown_keys_are_noted_where_the_library_agrees_and_refused_where_it_cannot_be_asked(tmp_path: Path) -> None:
    one(tmp_path / "parts").save_pretrained(str(tmp_path / "c"))
    library.edit(tmp_path / "c" / "config.json", my_key=1)
    library.edit(tmp_path / "c" / "1_SpladePooling" / "config.json", temperature=2.0)
    library.edit(tmp_path / "c" / "something.json", a=1)
    with pytest.raises(CheckpointError, match="temperature") as caught:
        run(tmp_path / "c", tmp_path / "out")  # the library refuses a key of a module that it does not know
    assert "config.json: temperature" in str(caught.value)
    assert "pass --ignore 'temperature' --ignore 'my_key' --ignore 'something.json' if" in str(caught.value)
    result = run(tmp_path / "c", tmp_path / "out", ignore=("my_key", "config.json: temperature", "something.json"))
    assert result.report.witnesses[0].name == "transformers with our pooling"
    assert any("sentence-transformers cannot load it" in note for note in result.notes)
    assert "--ignore" in (tmp_path / "out" / "README.md").read_text()


def test_a_key_to_be_ignored_that_is_not_there_is_refused(tmp_path: Path) -> None:
    bert(tmp_path / "c")
    with pytest.raises(InputError, match="--ignore 'my_kye': the checkpoint has no such key"):
        run(tmp_path / "c", tmp_path / "out", ignore=("my_kye",))


def test_without_the_library_nothing_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert(tmp_path / "c")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"comparing with sentence-transformers needs the \[export\] extra"):
        run(tmp_path / "c", tmp_path / "out")


def test_return_dict_is_no_matter_of_the_checkpoint(tmp_path: Path) -> None:
    library.edit(bert(tmp_path / "c") / "config.json", return_dict=False)
    run(tmp_path / "c", tmp_path / "out")
    expected = library.vectors(tmp_path / "c", "query", library.TEXTS)
    assert library.difference(tmp_path / "out", "query", library.TEXTS, expected) < LIMIT


def test_an_unknown_key_that_changes_nothing_is_one_note(tmp_path: Path) -> None:
    bert(tmp_path / "c")
    library.edit(tmp_path / "c" / "config.json", my_key=1)
    result = run(tmp_path / "c", tmp_path / "out")
    noted = [note for note in result.notes if "config.json: my_key" in note]
    assert len(noted) == 1
    assert "gives the same vectors" in noted[0]
    assert "config.json: my_key" in (tmp_path / "out" / "README.md").read_text()


def test_the_report_names_the_witness_and_how_far_half_precision_is(tmp_path: Path) -> None:
    one(tmp_path / "parts", dtype=torch.bfloat16).save_pretrained(str(tmp_path / "c"))
    result = run(tmp_path / "c", tmp_path / "out")
    report = msgspec.json.decode((tmp_path / "out" / "parity.json").read_bytes(), type=ParityReport)
    assert report == result.report
    (witness,) = report.witnesses
    assert witness.half_precision is not None
    assert 1e-4 < witness.half_precision < 0.2
    assert {graph.witness for graph in report.graphs} == {"sentence-transformers"}
    assert any("stored in bfloat16" in note for note in result.notes)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "stored in half precision" in card
    assert "- both: sentence-transformers, in float32" in card


def test_a_hub_cache_of_links_works_for_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    look_up(tmp_path / "parts").save_pretrained(str(tmp_path / "c"))
    library.hub_cache(tmp_path / "c", tmp_path / "cache", "someone/look-up")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    request = ExportRequest(
        output=tmp_path / "out", checkpoint="someone/look-up", backends=("onnx",), int8=False,
        options=OpenOptions(offline=True),
    )  # fmt: skip
    result = export(request)
    assert {w.name for w in result.report.witnesses} == {"sentence-transformers"}
    for side in ("query", "document"):
        expected = library.vectors(tmp_path / "c", side, library.TEXTS)
        assert library.difference(tmp_path / "out", side, library.TEXTS, expected) < LIMIT


def test_a_table_keeps_the_weight_of_special_tokens_and_of_unknown_ones(tmp_path: Path) -> None:
    look_up(tmp_path / "parts").save_pretrained(str(tmp_path / "c"))
    run(tmp_path / "c", tmp_path / "out")
    expected = library.vectors(tmp_path / "c", "query", ["oil [SEP] \u732b"])[0]
    assert np.flatnonzero(expected).tolist() == sorted(library.VOCABULARY.index(t) for t in ("[UNK]", "[SEP]", "oil"))


@pytest.mark.parametrize("layout", matrix.LAYOUTS)
@pytest.mark.parametrize("architecture", ["distilbert"])
def test_layouts_of_an_architecture(layout: str, architecture: str, tmp_path: Path) -> None:
    row = matrix.measure(layout, architecture, tmp_path)
    assert row.fp32 < LIMIT
    if "largest" in layout:  # of random weights many are nearly equal at the cut, and int8 keeps others of them
        return
    assert row.int8_onnx >= 0.99
    assert row.int8_kernel is None or row.int8_kernel >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("layout", matrix.LAYOUTS)
@pytest.mark.parametrize("architecture", [name for name in architectures.REQUIRED if name != "distilbert"])
def test_all_layouts_of_all_architectures(layout: str, architecture: str, tmp_path: Path) -> None:
    test_layouts_of_an_architecture(layout, architecture, tmp_path)


@pytest.mark.parametrize("stated", [{"max_seq_length": 9999}, {"query_length": 200}])
def test_a_length_beyond_the_models_positions_is_cut_where_the_library_fails(
    stated: dict[str, Any], tmp_path: Path
) -> None:
    one(tmp_path / "parts").save_pretrained(str(tmp_path / "c"))
    library.edit(tmp_path / "c" / "sentence_bert_config.json", **stated)
    result = run(tmp_path / "c", tmp_path / "out")
    (witness,) = result.report.witnesses
    assert witness.name == "sentence-transformers"
    assert witness.failed
    short = [text for text in library.TEXTS if len(text) < 200]
    for side in ("query", "document"):
        expected = library.vectors(tmp_path / "c", side, short)
        assert library.difference(tmp_path / "out", side, short, expected) < LIMIT


def test_which_of_equal_weights_are_kept_is_no_difference(tmp_path: Path) -> None:
    """A bag of words has ties at every cut, and PyTorch's topk promises no order."""
    model = look_up(tmp_path / "parts", [1.0] * len(library.VOCABULARY))
    model.max_active_dims = 3
    model.save_pretrained(str(tmp_path / "c"))
    result = run(tmp_path / "c", tmp_path / "out")
    assert {w.name for w in result.report.witnesses} == {"sentence-transformers"}
    assert all(graph.max_abs_error < 1e-4 for graph in result.report.graphs)


def test_a_prompt_may_be_cut_where_texts_are_cut_on_the_left(tmp_path: Path) -> None:
    one(tmp_path / "parts", tokenizer=left(tmp_path), prompts={"query": "king " * 30, "document": ""}).save_pretrained(
        str(tmp_path / "c")
    )
    run(tmp_path / "c", tmp_path / "out")
    expected = library.vectors(tmp_path / "c", "query", library.TEXTS)
    assert library.difference(tmp_path / "out", "query", library.TEXTS, expected) < LIMIT


def test_files_that_a_plain_checkpoint_does_not_read_are_noted(tmp_path: Path) -> None:
    bert(tmp_path / "c")
    library.edit(tmp_path / "c" / "config_sentence_transformers.json", prompts={"query": "who "})
    (tmp_path / "c" / "1_SpladePooling").mkdir()
    library.edit(tmp_path / "c" / "1_SpladePooling" / "config.json", pooling_strategy="sum")
    result = run(tmp_path / "c", tmp_path / "out")
    assert "both: without modules.json neither sentence-transformers nor this export reads " in "\n".join(result.notes)
    assert "config_sentence_transformers.json, 1_SpladePooling" in "\n".join(result.notes)
    expected = library.vectors(tmp_path / "c", "query", library.TEXTS)
    assert library.difference(tmp_path / "out", "query", library.TEXTS, expected) < LIMIT
