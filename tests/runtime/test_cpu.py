from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from splade_edge.runtime import cpu
from splade_edge.runtime.artifact import Artifact, Variant, open_artifact


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    cpu.x86_features.cache_clear()
    yield
    cpu.x86_features.cache_clear()


def test_what_linux_says_is_read_in_the_names_of_llvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni avx_vnni\nbugs\t\t:\n")
    monkeypatch.setattr(cpu, "_CPUINFO", cpuinfo)
    assert cpu.x86_features() == {"fpu", "avx2", "avx512vnni", "avxvnni"}


def test_elsewhere_llvm_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "none")
    assert cpu.x86_features()
    (tmp_path / "arm").write_text("processor: 0\nFeatures: asimddp\n")
    cpu.x86_features.cache_clear()
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "arm")
    assert cpu.x86_features()


@pytest.mark.parametrize(
    ("isa", "machine", "features", "expected"),
    [
        ("any", "x86_64", (), True),
        ("vnni", "x86_64", ("avx2",), False),
        ("vnni", "AMD64", ("avxvnni",), True),
        ("vnni", "x86_64", ("avx512vnni",), True),
        ("vnni", "aarch64", (), True),
        ("sparc", "x86_64", (), False),
    ],
)
def test_supports(
    isa: str, machine: str, features: tuple[str, ...], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    assert cpu.supports(isa, frozenset(features)) is expected


def test_the_graph_for_this_cpu_is_taken(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = open_artifact(tiny_artifact)
    graphs = [
        Variant("onnx", precision, f"onnx/{name}.onnx", "", isa, True)
        for name, precision, isa in (("a", "int8", "any"), ("b", "int8", "vnni"), ("c", "fp32", "any"))
    ]

    def taken(variants: list[Variant], **asked: str) -> str:
        manifest = msgspec.structs.replace(artifact.manifest, variants=variants)
        return Artifact(tiny_artifact, manifest).variant(**asked).path[5]

    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "x86_features", lambda: frozenset({"avxvnni"}))
    assert taken(graphs) == taken(graphs[::-1]) == "b"
    assert taken(graphs, precision="fp32") == "c"
    monkeypatch.setattr(cpu, "x86_features", lambda: frozenset({"avx2"}))
    assert taken(graphs) == taken(graphs[::-1]) == "a"
    assert taken(graphs[1:]) == "c", "float32 is right everywhere"
    assert taken(graphs[1:], precision="int8") == "b", "it is refused when it is loaded"
