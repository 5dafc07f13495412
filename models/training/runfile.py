"""Reading a run file, the TOML that a user writes, and checking it before anything heavy is loaded."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from ...runtime.errors import InputError
from .settings import RunFile
from .unused import unused_setting

# Where a run file names paths.
PATHS = (
    ("document", "base"),
    ("query", "base"),
    ("teacher", "base"),
    ("teacher", "query_vectors"),
    ("teacher", "document_vectors"),
    ("training", "miner"),
)

# The two sides have different defaults, which hold key by key.
_REGULARIZERS: dict[str, dict[str, Any]] = {
    "query_regularizer": {"penalty": "l1", "terms": 8},
    "document_regularizer": {"penalty": "flops", "terms": 150},
}


def read_run_file(path: Path) -> RunFile:
    """Read and check a run file.

    Parameters
    ----------
    path : Path
        The file. Relative paths in it are relative to the file they stand in.

    Returns
    -------
    RunFile
        The run.

    Raises
    ------
    InputError
        For anything that is not as documented; the message names the key.
    """
    own, merged = _merged(path, [])
    try:
        run = msgspec.convert(_with_defaults(merged), RunFile)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None
    if not run.sets or not any(s.weight for s in run.sets):
        raise InputError(f"{path}: no set to train on; add [[sets]] with a path and a weight above 0")
    if len({Path(s.path).name for s in run.sets}) < len(run.sets):
        raise InputError(f"{path}: two of its sets have the same directory name")
    if same := next((s.split for s in run.sets if s.dev == s.split), None):
        raise InputError(f'{path}: dev = "{same}" is what the set learns from; name another split, or held_out alone')
    for name in ("query_regularizer", "document_regularizer"):
        if (settings := getattr(run, name)).terms and not settings.weight:
            raise InputError(f"{path}: [{name}] terms needs a weight above 0 to start from; penalty = 'none' is off")
    _check_encoders(run, path)
    if fault := unused_setting(own, run):
        raise InputError(f"{path}: {fault}")
    return run


def _with_defaults(tables: dict[str, Any]) -> dict[str, Any]:
    found = dict(tables)
    for name, defaults in _REGULARIZERS.items():
        own = found.get(name, {})
        if isinstance(own, dict):  # what else it is, msgspec says
            # no penalty has no number of terms to meet
            kept = {"penalty": defaults["penalty"]} if own.get("penalty") == "none" else defaults
            found[name] = kept | own
    return found


def _check_encoders(run: RunFile, path: Path) -> None:
    wanted = {
        "retrieval": ("[document], and may have [query]", run.document is not None),
        "mlm": ("[document] and no [query]", run.document is not None and run.query is None),
        "imitation": (
            "[query] and no [document], and query_vectors in [teacher]",
            run.document is None and run.query is not None and run.teacher.query_vectors is not None,
        ),
        "index": (
            "[query] and no [document], and an index in each of [[sets]]",
            run.document is None and run.query is not None and all(s.index for s in run.sets),
        ),
    }
    what, satisfied = wanted[run.objective]
    if not satisfied:
        raise InputError(f'{path}: objective = "{run.objective}" needs {what}')
    if all(side is None or side.frozen for side in (run.document, run.query)):
        raise InputError(f"{path}: its encoders are frozen, so there is nothing to train")


def _merged(path: Path, seen: list[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The TOML of a file by itself, and on top of the one it extends; paths resolved."""
    path = path.absolute()
    if path in seen:
        raise InputError(f"{path} extends itself")
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the run file {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    extended = own.pop("extends", None)
    _resolve_paths(own, path.parent)
    if extended is None:
        return own, own
    if not isinstance(extended, str):
        raise InputError(f"{path}: extends names another run file")
    return own, _overlaid(_merged(path.parent / extended, [*seen, path])[1], own)


def _overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _overlaid(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _resolve_paths(tables: dict[str, Any], here: Path) -> None:
    places = [(tables.get(table), key) for table, key in PATHS]
    sets = tables.get("sets")
    places += [(entry, key) for entry in sets for key in ("path", "index")] if isinstance(sets, list) else []
    for table, key in places:
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = os.path.normpath(here / Path(table[key]).expanduser())
