"""What can go wrong in an export, and that nothing is left behind when it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from splade_edge.export import variants
from splade_edge.export.exporter import export
from splade_edge.export.pooled_module import pooled_graph
from splade_edge.export.request import ExportRequest
from splade_edge.export.verify import repeat_parity
from splade_edge.models.options import OpenOptions
from splade_edge.runtime.artifact import open_all
from splade_edge.runtime.errors import CheckpointError, InputError, ParityError

from .. import checkpoints

pytestmark = pytest.mark.usefixtures("traced_once")


def request(output: Path, checkpoint: Path, **options) -> ExportRequest:
    return ExportRequest(output=output, checkpoint=str(checkpoint), backends=("onnx",), int8=False, **options)


class OffForLongTexts(torch.nn.Module):
    """A graph that is right but for texts of more than 20 tokens."""

    def __init__(self, checkpoint) -> None:
        super().__init__()
        self.inner = pooled_graph(checkpoint)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        long = (attention_mask.sum(dim=1, keepdim=True) > 20).float()
        return self.inner(input_ids, attention_mask) + 0.01 * long


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_wrong_graph_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(variants, "pooled_graph", OffForLongTexts)
    message = rf"both/{backend}/fp32 differs from sentence-transformers by 1\.00e-02 .* on the \w+ text .* instead of"
    with pytest.raises(ParityError, match=message) as caught:
        export(ExportRequest(output=tmp_path / "out", checkpoint=str(bert), backends=(backend,), int8=False))
    assert caught.value.output == f"both/{backend}/fp32"
    assert caught.value.error == pytest.approx(0.01, abs=1e-4)
    assert len(caught.value.text.split()) > 10
    assert repr(caught.value.text[:60])[1:-1] in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_gives_nan_is_refused(tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NotANumber(OffForLongTexts):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.inner(input_ids, attention_mask) * float("nan")

    monkeypatch.setattr(variants, "pooled_graph", NotANumber)
    with pytest.raises(ParityError, match="not finite"):
        export(request(tmp_path / "out", bert))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_before_any_work(
    tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splade_edge.export import exporter

    monkeypatch.setattr(exporter, "open_checkpoint", lambda *_: pytest.fail("opened the checkpoint first"))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="--force"):
        export(request(tmp_path / "out", bert))


def test_force_replaces_an_artifact_and_a_failure_keeps_it(
    tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    export(request(output, bert))
    before = open_all(output)[0].manifest
    with monkeypatch.context() as patched:
        patched.setattr(variants, "pooled_graph", OffForLongTexts)
        with pytest.raises(ParityError):
            export(request(output, bert, force=True))
    assert open_all(output)[0].manifest == before
    export(request(output, bert, force=True, options=OpenOptions(max_length=16, query_idf=0.5)))
    [artifact] = open_all(output)
    assert (artifact.manifest.max_length, artifact.manifest.query_idf) == (16, 0.5)
    assert "multiplied with the power 0.5 of the terms' inverse" in (output / "README.md").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name one CHECKPOINT"),
        ({"query": "a"}, "both --query and --document"),
        ({"checkpoint": "a", "query": "b", "document": "c"}, "name one CHECKPOINT"),
        ({"query": "b", "document": "c", "role": "query"}, "name one CHECKPOINT"),
        (
            {"checkpoint": "a", "role": "document", "options": OpenOptions(query_idf=0.4)},
            "--query-idf is for a query encoder; leave it out",
        ),
        ({"checkpoint": "a", "options": OpenOptions(query_idf=9)}, "the power of the idf is 9"),
    ],
)
def test_what_to_export_must_be_clear(tmp_path: Path, given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(ExportRequest(output=tmp_path / "out", **given))


def test_two_sides_with_other_vocabularies_are_no_pair(tmp_path: Path, bert: Path) -> None:
    roberta = checkpoints.write_checkpoint(tmp_path / "roberta", "roberta")
    with pytest.raises(CheckpointError, match="do not share a vocabulary"):
        export(ExportRequest(output=tmp_path / "out", query=str(bert), document=str(roberta)))


def test_a_pair_from_two_checkpoints(tmp_path: Path, pair: Path) -> None:
    output = tmp_path / "out"
    both = ExportRequest(
        output=output, query=str(pair / "query"), document=str(pair / "document"), backends=("onnx",), int8=False
    )
    export(both)
    assert [a.manifest.role for a in open_all(output)] == ["query", "document"]


def test_calibration_text_is_checked_first(tmp_path: Path, bert: Path) -> None:
    bad = tmp_path / "texts.jsonl"
    bad.write_text('{"kind": "query", "text": "a"}\n{"kind": "essay", "text": "b"}\n')
    with pytest.raises(InputError, match=r"texts\.jsonl:2: "):
        export(request(tmp_path / "out", bert, calibration=bad))
    bad.write_text('{"kind": "query", "text": "a"}\n')
    with pytest.raises(InputError, match="at least one query and one document"):
        export(request(tmp_path / "out", bert, calibration=bad))


def test_parity_can_be_repeated_where_the_source_is_at_hand(
    exported_pair: Path, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = open_all(exported_pair)[0]
    assert "name it with --source" in (repeat_parity(query) or "")
    assert repeat_parity(query, str(pair)) is None
    monkeypatch.chdir(pair.parent)
    assert repeat_parity(query) is None
    other = checkpoints.write_pair(tmp_path / "other", "distilbert")
    assert "other weights" in (repeat_parity(query, str(other)) or "")
    assert "neither a directory" in (repeat_parity(query, "/no/such") or "")


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_export_leaves_no_artifact_and_the_next_one_cleans_up(tmp_path: Path, bert: Path) -> None:
    output = tmp_path / "out" / "artifact"
    script = f"""
        import time
        from pathlib import Path
        from splade_edge.export.exporter import export
        from splade_edge.export.request import ExportRequest
        def progress(done, total, what):
            if what.startswith("parity"):
                Path({str(tmp_path / "reached")!r}).touch()
                time.sleep(60)
        export(ExportRequest(output=Path({str(output)!r}), checkpoint={str(bert)!r}, backends=("onnx",), int8=False),
               progress)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)]) as process:
        while not (tmp_path / "reached").exists() and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None, "the export ended before it could be killed"
        process.send_signal(signal.SIGKILL)
    assert not output.exists()
    export(request(output, bert))
    assert [p.name for p in output.parent.iterdir()] == ["artifact"]
