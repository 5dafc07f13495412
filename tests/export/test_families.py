"""Every row of the families' table, from a checkpoint to answers: exported, proven, indexed and searched.

What the runtime gives is compared with the formula of the family, written out here text by text in NumPy from the
model's logits on, so that the package's own reference is checked as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from splade_edge.export.exporter import export
from splade_edge.export.parity import ParityReport
from splade_edge.export.request import ExportRequest
from splade_edge.export.verify import repeat_parity
from splade_edge.models.families import FAMILIES
from splade_edge.models.options import OpenOptions
from splade_edge.runtime import Document, Encoder, Searcher, build_index
from splade_edge.runtime.artifact import is_pair, open_artifact
from splade_edge.runtime.cli.info import describe
from splade_edge.runtime.index.index import Index

from .. import checkpoints

pytestmark = pytest.mark.usefixtures("traced_once")

QUERIES = ["who built the steam engine of warsaw", "the oil oil crisis", "[SEP] <mask> oxygen", "", "☃ kenya"]
DOCUMENTS = [
    "the steam engine and the war",
    "the oil crisis began in a country",
    "oxygen is a prime number",
    "kenya and warsaw " * 20,
    "the pharmacy network",
]


@dataclass(frozen=True)
class Case:
    """A checkpoint of one family, and what each side of its formula is.

    ``sides``: for the query and the document side "encoder", "masked encoder", "look-up" or "bag of words".
    ``dropped``: special tokens without weight, of the query and of the document side.
    """

    family: str
    write: Callable[[Path], object]
    sides: tuple[str, str] = ("encoder", "encoder")
    pooling: str = "max"
    logs: int = 1
    dropped: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    options: OpenOptions = field(default_factory=OpenOptions)
    id: str = ""


ENDS = ("cls_token", "sep_token", "pad_token")
ALL = (*ENDS, "unk_token", "mask_token")
CASES = [
    Case("splade", lambda p: checkpoints.write_checkpoint(p, dtype=torch.float16)),
    Case("splade", lambda p: checkpoints.write_checkpoint(p, "distilbert", tied=False), id="splade-untied"),
    Case("efficient-splade", checkpoints.write_pair),
    Case("efficient-splade", lambda p: checkpoints.write_hub_pair(p, "document", "query", router=True), id="router"),
    Case(
        "splade-v1",
        lambda p: checkpoints.write_checkpoint(p, tied=False),
        pooling="sum",
        options=OpenOptions(family="splade-v1"),
    ),
    Case(
        "splade-v3-doc",
        checkpoints.write_checkpoint,
        options=OpenOptions(family="splade-v3-doc"),
        sides=("bag of words", "encoder"),
        dropped=(ENDS, ()),
    ),
    Case(
        "splade-v3-lexical",
        checkpoints.write_checkpoint,
        options=OpenOptions(family="splade-v3-lexical"),
        sides=("masked encoder", "encoder"),
        dropped=(ENDS, ()),
    ),
    Case(
        "opensearch",
        lambda p: checkpoints.write_checkpoint(p, "distilbert"),
        options=OpenOptions(family="opensearch"),
        dropped=(ALL, ALL),
    ),
    Case(
        "opensearch-doc",
        lambda p: checkpoints.write_idf(p, "bert", dtype=torch.bfloat16),
        options=OpenOptions(family="opensearch-doc"),
        sides=("look-up", "encoder"),
        dropped=(ALL, ALL),
    ),
    Case(
        "opensearch-doc-v3",
        checkpoints.write_idf,
        options=OpenOptions(family="opensearch-doc-v3"),
        sides=("look-up", "encoder"),
        logs=2,
        dropped=(ALL, ALL),
    ),
    Case("granite-sparse", lambda p: checkpoints.write_checkpoint(p, "roberta")),
    Case("granite-sparse", lambda p: checkpoints.write_checkpoint(p, "roberta", tied=False), id="roberta-untied"),
    Case("modernbert-splade", lambda p: checkpoints.write_checkpoint(p, "modernbert", dtype=torch.bfloat16)),
    Case(
        "modernbert-splade",
        lambda p: checkpoints.write_look_up_router(p, "SparseStaticEmbedding", architecture="modernbert"),
        sides=("look-up", "encoder"),
        id="modernbert-look-up",
    ),
    Case(
        "splade-other",
        lambda p: checkpoints.write_sentence_transformers(p, activation="log1p_relu", architecture="roberta"),
        logs=2,
        options=OpenOptions(licence="mit"),
    ),
]


def test_every_family_has_a_case() -> None:
    assert {case.family for case in CASES} == {family.name for family in FAMILIES}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.id or case.family)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(case, checkpoint, exported artifact or pair)."""
    case: Case = request.param
    directory = tmp_path_factory.mktemp("family")
    source = directory / "checkpoint"
    case.write(source)
    request.getfixturevalue("traced_per_module")
    output = directory / "out"
    export(ExportRequest(output=output, checkpoint=str(source), options=case.options))
    return case, source, output


def formula(case: Case, source: Path, side: str, text: str) -> np.ndarray:
    """The vector that the family's papers give a text, float64 ``[vocab]``."""
    place = 0 if side == "query" else 1
    directory = next(
        path
        for path in (source / side, source / f"{side}_0_MLMTransformer", source / "document_0_MLMTransformer", source)
        if (path / "config.json").is_file()
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    kind = case.sides[place]
    special = kind not in ("look-up", "bag of words")  # a table reads a text's own tokens alone
    ids = tokenizer(text, truncation=True, max_length=max_length(source), add_special_tokens=special)["input_ids"]
    if kind in ("look-up", "bag of words"):
        size = json.loads((directory / "config.json").read_text())["vocab_size"]
        weights = np.ones(size)
        if kind == "look-up":
            idf = source / "idf.json"
            known = json.loads(idf.read_text()) if idf.exists() else dict.fromkeys(tokenizer.get_vocab(), 2.0)
            weights = np.zeros(size)
            for token, weight in known.items():
                weights[tokenizer.convert_tokens_to_ids(token)] = weight
    else:
        model = transformers.AutoModelForMaskedLM.from_pretrained(directory, dtype=torch.float32).eval()
        with torch.inference_mode():
            weights = np.maximum(model(torch.tensor([ids])).logits[0].numpy().astype(np.float64), 0)
        for _ in range(case.logs):
            weights = np.log1p(weights)
        weights = weights.max(axis=0) if case.pooling == "max" else weights.sum(axis=0)
    if kind != "encoder":
        weights = np.where(np.isin(np.arange(weights.size), ids), weights, 0)
    for name in case.dropped[place]:
        weights[getattr(tokenizer, f"{name}_id")] = 0
    return weights


def max_length(source: Path) -> int:
    return 24 if (source / "sentence_bert_config.json").is_file() else 32


def dense(encoder: Encoder, vector: Any) -> np.ndarray:
    row = np.zeros(encoder.vocab_size, np.float32)
    row[vector.indices] = vector.values
    return row


def encoder_of(output: Path, side: str, **options: Any) -> Encoder:
    return Encoder.open(output, side, threads=1, **options)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_both_sides_are_the_formula(exported: tuple[Case, Path, Path], backend: str) -> None:
    case, source, output = exported
    for side, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        exact = encoder_of(output, side, backend=backend, precision="fp32")
        int8 = encoder_of(output, side, backend=backend)
        assert exact.artifact.manifest.family == case.family
        for encoded, small, text in zip(exact.encode(texts), int8.encode(texts), texts, strict=True):
            expected = formula(case, source, side, text)
            found = dense(exact, encoded.vector)
            np.testing.assert_allclose(found, expected, atol=1e-4)
            together = encoded.vector.dot(small.vector)
            norms = np.sqrt(encoded.vector.dot(encoded.vector) * small.vector.dot(small.vector))
            assert together >= 0.95 * norms
        assert any(formula(case, source, side, text).any() for text in texts)


def test_the_artifact_says_what_it_is(exported: tuple[Case, Path, Path]) -> None:
    case, source, output = exported
    report = msgspec.json.decode((output / "parity.json").read_bytes(), type=ParityReport)
    assert all(g.max_abs_error < 1e-4 for g in report.graphs if g.precision == "fp32")
    separate = case.sides[0] != "encoder" or case.family == "efficient-splade"
    assert is_pair(output) is separate
    for side, kind in zip(("query", "document"), case.sides, strict=True):
        artifact = open_artifact(output, side)
        manifest = artifact.manifest
        assert manifest.kind == kind
        forms = {(v.backend, v.precision) for v in manifest.variants}
        engines = {(b, p) for b in ("onnx", "openvino") for p in ("fp32", "int8")}
        assert forms == ({("table", "fp32")} if kind in ("look-up", "bag of words") else engines)
        if separate:
            assert repeat_parity(artifact, str(source)) is None
            assert describe(output)[side]["encodes_by"] == kind
            card = (output / side / "README.md").read_text()
            assert f"| encodes by | {kind} |" in card


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_index_and_search(exported: tuple[Case, Path, Path], tmp_path: Path, precision: str) -> None:
    case, source, output = exported
    encoder = encoder_of(output, "document", backend="onnx", precision=precision)
    documents = [Document(str(i), text=text) for i, text in enumerate(DOCUMENTS)]
    build_index(tmp_path / "index", documents, encoder, open_artifact(output, "query"))
    Index.open(tmp_path / "index").check()
    matrix = np.stack([formula(case, source, "document", text) for text in DOCUMENTS])
    for backend in ("onnx", "openvino"):
        with Searcher.open(tmp_path / "index", backend=backend, precision=precision, threads=1) as searcher:
            for query in QUERIES[:2]:
                scores = matrix @ formula(case, source, "query", query)
                found = {int(hit.id): hit.score for hit in searcher.search(query, k=len(DOCUMENTS))}
                assert found, "nothing was found"
                limit = 0.02 if precision == "fp32" else 0.15  # 8-bit impacts; int8
                for document, score in found.items():
                    assert score == pytest.approx(scores[document], rel=limit, abs=limit * scores.max())


def test_a_table_needs_no_engine(tmp_path: Path) -> None:
    """In a process where neither engine can be imported."""
    source, options = tmp_path / "c", OpenOptions(family="opensearch-doc")
    known = checkpoints.write_idf(source)
    output = tmp_path / "out"
    export(ExportRequest(output=output, checkpoint=str(source), backends=("onnx",), int8=False, options=options))
    build_index(tmp_path / "index", [Document("a", text="the steam engine")], output)
    script = f"""
        import sys
        sys.modules["onnxruntime"] = sys.modules["openvino"] = sys.modules["torch"] = None
        from splade_edge.runtime import Encoder, Searcher
        print(len(Encoder.open({str(output / "query")!r}).encode_query("steam engine").indices))
        print([hit.id for hit in Searcher.open({str(tmp_path / "index")!r}).search("engine of steam")])
    """
    script = "\n".join(line.strip() for line in script.splitlines())
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    terms = len({"steam", "engine"} & known.keys())
    assert terms
    assert done.stdout.splitlines() == [str(terms), "['a']"], done.stderr


def test_one_side_of_a_look_up_checkpoint(tmp_path: Path) -> None:
    source, options = tmp_path / "c", OpenOptions(family="opensearch-doc")
    checkpoints.write_idf(source)
    result = export(ExportRequest(output=tmp_path / "out", checkpoint=str(source), role="query", options=options))
    artifact = open_artifact(result.path)
    assert artifact.manifest.role == "query"
    assert {p.name for p in result.path.iterdir()} == {
        "README.md", "parity.json", "splade_edge.json", "table.f32", "tokenizer.json",
    }  # fmt: skip
    assert repeat_parity(artifact, str(source)) is None


def test_a_family_of_the_users_own(tmp_path: Path) -> None:
    source = checkpoints.write_checkpoint(tmp_path / "c")
    checkpoints.write_json(source / "mine.json", {"steam": 2.0, "engine": 3.0})
    family = tmp_path / "my.toml"
    family.write_text(
        'name = "mine"\npooling = "sum"\nactivation = "relu"\nquery_side = "look-up"\nlook_up = "mine.json"\n'
        'document_dropped = ["all"]\n'
    )
    output = tmp_path / "out"
    export(ExportRequest(output=output, checkpoint=str(source), int8=False, options=OpenOptions(family=str(family))))
    query, document = (open_artifact(output, side) for side in ("query", "document"))
    assert (document.manifest.family, document.manifest.pooling, document.manifest.activation) == (
        "mine",
        "sum",
        "relu",
    )
    assert Encoder(query).decode(Encoder(query).encode_query("the steam engine")) == [("engine", 3.0), ("steam", 2.0)]
    assert repeat_parity(document, str(source)) is None, "the family is known from the manifest"
