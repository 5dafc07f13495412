"""What is installed is what is in the tree: the wheel has every module, and needs the licences along."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    # A copy is built: setuptools leaves build directories in the tree it builds from.
    tree = tmp_path_factory.mktemp("tree") / "splade-edge"
    subprocess.run(["git", "-C", ROOT, "checkout-index", "--all", f"--prefix={tree}/"], check=True)
    for name in subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--modified", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines():  # fmt: skip
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, tree],
        check=True, capture_output=True,
    )  # fmt: skip
    [path] = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_every_module(wheel: zipfile.ZipFile) -> None:
    expected = {"optimum/commands/register/splade.py"}
    for folder in ("models", "export", "runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            if "optimum_register" not in path.parts:
                expected.add(f"splade_edge/{path.relative_to(ROOT).as_posix()}")
    names = set(wheel.namelist())
    assert expected <= names, sorted(expected - names)
    assert not [n for n in names if n.startswith("tests/") or n in ("splade_edge/__init__.py", "optimum/__init__.py")]


def test_the_wheel_has_its_data(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for path in [
        *filter(Path.is_file, (ROOT / "export/samples").rglob("*")),
        ROOT / "runtime/FORMAT.md",
        ROOT / "models/training/README.md",
        *(ROOT / "models/training/runs").rglob("*.toml"),
        *ROOT.glob("*/py.typed"),
    ]:
        assert f"splade_edge/{path.relative_to(ROOT).as_posix()}" in names
    assert {Path(n).name for n in names if ".dist-info/licenses/" in n} == {"LICENSE", "NOTICE"}


def test_every_pin_fits_its_range() -> None:
    """Each dependency of pyproject.toml is pinned in the constraints, within the range that it asks for."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / ".ci/constraints.txt").read_text(), re.M))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    extras = project["optional-dependencies"].values()
    for text in [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]:
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name != "splade-edge":
            assert requirement.specifier.contains(pins[name]), text
