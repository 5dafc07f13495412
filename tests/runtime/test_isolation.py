"""The runtime must import where there is no PyTorch, and never reach for models/ or export/."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

CODE = """
    import importlib, pkgutil, sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            foreign = "torch transformers optimum onnx safetensors huggingface_hub nncf".split()
            if name.split(".")[0] in foreign or name.startswith(("splade_edge.models", "splade_edge.export")):
                raise AssertionError(f"the runtime imported {name}")

    sys.meta_path.insert(0, Refuse())
    import splade_edge.runtime as runtime
    names = [m.name for m in pkgutil.walk_packages(runtime.__path__, "splade_edge.runtime.")]
    for name in names:
        importlib.import_module(name)
    for name in runtime.__all__:
        getattr(runtime, name)
    print(len(names))
"""

LIGHT = """
    import sys
    from splade_edge.runtime.cli.main import main
    try:
        main(["--help"])
    except SystemExit:
        pass
    heavy = "numba onnxruntime openvino tokenizers rich torch numpy ir_measures".split()
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)


def test_every_module_of_the_runtime_imports_without_pytorch() -> None:
    process = run(CODE)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 20


def test_the_refusal_works() -> None:
    process = run(CODE.replace("import splade_edge.runtime as runtime", "import onnx"))
    assert "the runtime imported onnx" in process.stderr


def test_help_imports_nothing_heavy() -> None:
    assert run(LIGHT).stderr == "[]\n"


@pytest.mark.parametrize("name", ["Searcher", "Encoder", "Index", "build_index"])
def test_public_names(name: str) -> None:
    import splade_edge.runtime as runtime

    assert getattr(runtime, name).__name__ == name


def test_the_former_place_of_the_index_writer() -> None:
    from splade_edge.runtime.build.index_writer import IndexWriter
    from splade_edge.runtime.index import writer

    assert writer.IndexWriter is IndexWriter
    with pytest.raises(AttributeError, match="no attribute 'none'"):
        _ = writer.none
