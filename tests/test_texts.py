"""What the texts show is true: their code runs, their commands and options exist, their links lead somewhere.

Every fenced block of every ``.md`` file is tried, in the order of the file, in a directory with a tiny pair and an
index:

- ``python`` is executed; blocks of one file share their names. A block that begins with ``# NAME.py`` is a file of that
  name, and is run as a process.
- ``sh``: ``splade-edge`` is run as a process, and must end with 0. ``make``, ``pip`` and ``python -m`` are checked
  against the Makefile, the extras and the module's own parser.
- ``toml`` is a run file of ``splade-edge train`` if it has sets, else a family file. ``json`` is parsed.
- ``text`` is no code.

``<!-- parsed only: REASON -->`` in front of a block of ``sh`` says why it cannot run here. Then the real parser of each
command reads the line, and nothing runs.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import dataclasses
import importlib.util
import inspect
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from splade_edge import runtime
from splade_edge.runtime import Document, build_index
from splade_edge.runtime.artifact import write_pair_manifest
from splade_edge.runtime.cli.main import ALIASES, BUILT_IN, KNOWN_PLUG_INS, main

from . import tiny

ROOT = Path(__file__).parent.parent
TEXTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(
        part.startswith(".") or part in ("build", "dist", "demo", "pair") for part in path.relative_to(ROOT).parts
    )
    and "fixtures" not in path.parts
)
COMMANDS = {
    **{name: command.help for name, command in BUILT_IN.items()},
    **{n: h for n, (h, _) in KNOWN_PLUG_INS.items()},
}
# Options of other programs that the texts name.
FOREIGN = {"--preload", "--workers", "--max-requests", "--inplace", "--no-deps", "--cov"}
LANGUAGES = {"python", "sh", "toml", "json", "text"}
WORDS = "which country rationed gasoline who built it engine kenya warsaw red . , d1 d2".split()  # noqa: SIM905


class Block(NamedTuple):
    """A fenced block: its language, lines, line number, and the mark in front of it."""

    language: str
    code: str
    line: int
    mark: str


def blocks_of(path: Path) -> list[Block]:
    blocks: list[Block] = []
    fence: tuple[str, int, list[str]] | None = None
    mark = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if fence is None and line.startswith("```"):
            fence = (line[3:].strip(), number, [])
        elif fence is not None and line.startswith("```"):
            blocks.append(Block(fence[0], "\n".join(fence[2]), fence[1], mark))
            fence, mark = None, ""
        elif fence is not None:
            fence[2].append(line)
        elif line.strip():
            found = re.fullmatch(r"<!-- parsed only: (.+) -->", line)
            mark = found[1] if found else ""
    assert fence is None, f"{path}: a block without an end"
    return blocks


def prose_of(path: Path) -> str:
    """A text without its blocks and without what stands in comments."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"<!--.*?-->", "", text, flags=re.S)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_first_text_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


def test_the_first_text_has_every_command_with_its_help() -> None:
    rows = dict(re.findall(r"^\| `splade-edge (\w+)` \| (.+) \|$", (ROOT / "README.md").read_text("utf-8"), re.M))
    assert rows == COMMANDS


def test_the_runtime_s_text_has_every_field_error_and_method_that_it_tables() -> None:
    text = (ROOT / "runtime/README.md").read_text("utf-8")
    table = text[text.index("| field | type | what |") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.split("\n")))) == {
        field.name for field in dataclasses.fields(runtime.Hit)
    }
    table = text[text.index("| method of `Searcher` | gives |") :].split("\n\n")[0]
    for row in table.split("\n")[2:]:
        for name in re.findall(r"`(\w+)", row.split("|")[1]):
            assert hasattr(runtime.Searcher, name) or name == "encoder", name
    table = text[text.index("| error | when |") :].split("\n\n")[0]
    for name in re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.split("\n"))):
        assert issubclass(getattr(runtime, name), runtime.SpladeEdgeError), name


def test_files_and_modules_that_are_named_exist() -> None:
    for text, span in spans():
        if re.fullmatch(r"(runtime|export|models|tests|benchmarks)/[\w./-]*", span):
            assert (ROOT / span).exists(), f"{text}: {span}"
    now = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for row in re.findall(r"^\| `.*\| (.+) \|$", now, re.M):
        for name in re.findall(r"`([\w.]+)`", row):
            module = re.sub(r"\.[A-Z]\w*$", "", name)
            assert importlib.util.find_spec(f"splade_edge.runtime.{module}") is not None, f"CHANGELOG: {name}"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_blocks_are_fenced_and_named(path: Path) -> None:
    assert {block.language for block in blocks_of(path)} <= LANGUAGES
    before = ""
    for line in prose_of(path).split("\n"):
        assert not (line.startswith("    ") and not before.strip()), f"an indented block: {line}"
        before = line


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        to = (path.parent / file).resolve() if file else path
        assert to.exists(), target
        if anchor and to.suffix == ".md":
            assert anchor in anchors(to), target


@cache
def anchors(path: Path) -> set[str]:
    """The headings as GitHub makes links of them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as after ``make demo``, with a tiny pair in place of the default one."""
    place = tmp_path_factory.mktemp("texts")
    vocabulary = tiny.VOCABULARY + [word for word in WORDS if word not in tiny.VOCABULARY]
    for side in ("query", "document"):
        tiny.write_artifact(place / "demo/pair" / side, side, vocabulary=vocabulary)
    write_pair_manifest(place / "demo/pair", query="query", document="document", made_by="tests")
    texts = ["country rationed gasoline", "who built it", "a red cat", "a dog", "the engine of a wing", "winter snow"]
    rows: list[dict[str, Any]] = [
        {"_id": name, "title": title, "text": text, "year": 2018 + n, "lang": "en"}
        for n, (name, title, text) in enumerate(
            zip(
                ["d1", "d2", "doc17", "doc18", "d5", "d6"],
                ["gasoline", "Warsaw", "", "", "Kenya", ""],
                texts,
                strict=True,
            )
        )
    ]
    for name, some in {
        "corpus.jsonl": rows,
        "new.jsonl": [{"_id": "n1", "text": "bread and salt"}],
        "changed.jsonl": [{"_id": "d1", "text": "gasoline and water"}],
        "queries.jsonl": [{"_id": "q1", "text": "which country rationed gasoline"}],
    }.items():
        (place / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    (place / "qrels").mkdir()
    (place / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    documents = [Document(row["_id"], row["title"], row["text"], {"year": row["year"]}) for row in rows]
    build_index(place / "demo/index", documents, place / "demo/pair")
    return place


@pytest.mark.parametrize("path", [path for path in TEXTS if blocks_of(path)], ids=name_of)
def test_blocks_run(path: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    shutil.copytree(made, place)
    (place / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(place)
    names: dict[str, Any] = {"__name__": "texts"}
    for block in blocks_of(path):
        where = f"{name_of(path)}:{block.line}"
        if block.language == "python":
            run_python(block.code, names, where)
        elif block.language == "sh":
            for line in commands_in(block.code):
                if block.mark or line[0] != "splade-edge":
                    parse(line)
                else:
                    call([*line_of("splade_edge.runtime.cli.main"), *line[1:]], where)
        elif block.language == "toml":
            read_toml(block.code, place)
        elif block.language == "json":
            json.loads(block.code)
    if path == ROOT / "runtime/README.md":  # its recipe for gunicorn, without gunicorn
        serve = (
            "import runpy; runpy.run_path('gunicorn.conf.py')['post_fork'](None, None)\n"
            "import app; assert app.app({'QUERY_STRING': 'q=dog'}, lambda *_: None) != [b'']"
        )
        call([sys.executable, "-c", serve], "app.py")


def line_of(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def call(command: list[str], where: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{where}: {command}\n{done.stdout}{done.stderr}"


def run_python(code: str, names: dict[str, Any], where: str) -> None:
    if named := re.match(r"# ([\w.]+\.py)\b", code):
        Path(named[1]).write_text(code)
        call([sys.executable, named[1]], where)
        return
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    result = eval(compile(code, where, "exec", flags), names)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def read_toml(code: str, place: Path) -> None:
    file = place / "from-a-text.toml"
    file.write_text(code)
    if "sets" in tomllib.loads(code):
        from splade_edge.models.training.runfile import read_run_file

        read_run_file(file)
    else:
        from splade_edge.models.custom_family import read_family

        read_family(file)


def commands_in(code: str) -> list[list[str]]:
    """The commands of a block, each as its words; ``splade-edge`` of an environment is ``splade-edge``."""
    lines = [shlex.split(line, comments=True) for line in code.replace("\\\n", " ").split("\n")]
    return [[re.sub(r"^\.venv[\w-]*/bin/", "", line[0]), *line[1:]] for line in lines if line]


class Parsed(BaseException):
    """A command line was read to its end."""


def parse(line: list[str]) -> None:
    """Let the real parser of a command read it, and nothing else. Fails where the command does not exist."""
    program, arguments = line[0], line[1:]
    if program == "splade-edge":
        parsed_by(lambda: main(arguments), arguments)
    elif program == "python" and arguments[:1] == ["-m"]:
        parse_module(arguments[1], arguments[2:])
    elif program == "make":
        assert set(arguments) <= targets(), arguments
    elif program == "pip":
        check_pip(arguments)
    else:
        assert program in (".", "cd", "git", ".ci/run", "pre-commit", "python3", "sh", "python"), line


def parse_module(module: str, arguments: list[str]) -> None:
    if module in ("pytest", "venv", "pip", "mypy"):
        return
    assert importlib.util.find_spec(module) is not None, module
    spec = importlib.util.find_spec(f"{module}.__main__") if is_package(module) else None
    parsed_by(lambda: runpy.run_module(spec.name if spec else module, run_name="__main__"), arguments)


def is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def parsed_by(run: Any, arguments: list[str]) -> None:
    depth = 0
    original = argparse.ArgumentParser.parse_known_args

    def stop_after(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            args, rest = original(parser, *given, **named)
        finally:
            depth -= 1
        if depth:
            return args, rest
        assert not rest, f"not understood: {rest} of {arguments}"
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop_after)
        patch.setattr(sys, "argv", ["command", *arguments])
        with pytest.raises(Parsed):
            run()


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))


def check_pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extra in re.findall(r"\[(.+?)\]", " ".join(arguments)):
        assert set(extra.split(",")) <= extras.keys()


@cache
def help_of(program: str) -> str:
    """The help of a command of splade-edge, or of a module."""
    command = line_of("splade_edge.runtime.cli.main") if program in all_names() else line_of(program)
    done = subprocess.run(
        [*command, *([program] if program in all_names() else []), "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def all_names() -> set[str]:
    return {*COMMANDS, *(alias for names in ALIASES.values() for alias in names)}


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


def spans() -> Iterator[tuple[str, str]]:
    for path in TEXTS:
        for span in re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", prose_of(path)):
            yield name_of(path), " ".join(span.split())


def test_every_command_and_option_that_is_named_exists() -> None:
    everywhere = FOREIGN.union(*(options_in(help_of(name)) for name in COMMANDS), options_in(" --help --version "))
    modules = {
        f"benchmarks.{path.stem}"
        for path in (ROOT / "benchmarks").glob("*.py")
        if "ArgumentParser" in path.read_text("utf-8") and not path.stem.startswith("_")
    }
    used = {m for _, span in spans() for m in re.findall(r"python -m ([\w.]+)", span)}
    for module in used:
        everywhere |= options_in(help_of(module))
        assert module in modules | {"benchmarks"} or importlib.util.find_spec(module) is not None, module
    wrong = []
    for text, span in spans():
        words = span.split()
        if words[0] == "splade-edge" and len(words) > 1 and words[1].islower():
            words = words[1:]
            if words[0].strip(",") not in all_names():
                wrong.append((text, span))
                continue
        if span.startswith("python -m "):
            known = options_in(help_of(words[2]))
        elif words[0] in all_names() and options_in(span):
            known = options_in(help_of(words[0]))
        elif words[0] == "make" and len(words) == 2:
            known = set()
            if words[1] not in targets():
                wrong.append((text, span))
        else:
            known = everywhere
        if options_in(span) - known - {"--help"}:
            wrong.append((text, span))
    assert not wrong


def test_the_citation_and_the_hosted_run_are_of_this_tree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(
        rf"^## {re.escape(version)} \((unreleased|\d{{4}}-\d\d-\d\d)\)$",
        (ROOT / "CHANGELOG.md").read_text("utf-8"),
        re.M,
    )
    assert "- run: .ci/run\n" in (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
