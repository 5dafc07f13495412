"""``splade-edge info``: what a directory is and how it was made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import add_json_argument
from .console import human_bytes, json_line, key_values, new_console, write_out

if TYPE_CHECKING:
    from ..artifact import Artifact
    from ..index.index import Index

_EXAMPLES = """\
examples:
  splade-edge info artifact/
  splade-edge info index/ --json"""
KINDS = ("numbers", "strings", "booleans")
FIELDS_SHOWN = 40
# The usual values, which the table of an artifact omits.
_USUAL: dict[str, Any] = {
    "adds_special_tokens": True,
    "split_special_tokens": False,
    "truncation_side": "right",
    "max_active_dims": None,
    "normalization": "none",
    "tokenizer": "class",
}


class InfoCommand:
    """The command ``info``: reads manifests. Hashes are not checked, see the command ``check``."""

    help = "show what an artifact, a pair or an index is"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description = "Show what a directory is: encoder, sizes, how text was cut and joined, licence."
        parser.epilog = _EXAMPLES
        parser.add_argument("directory", metavar="DIR", help="an artifact, a pair or an index")
        add_json_argument(parser, "it")

    def run(self, args: argparse.Namespace) -> int:
        """Print one table, or one JSON object."""
        about = describe(Path(args.directory))
        if args.json:
            write_out(json_line(about))
        else:
            new_console().print(key_values(_flatten(_without_defaults(about))))
        return 0


def describe(path: Path) -> dict[str, Any]:
    """Describe an artifact, a pair or an index.

    Parameters
    ----------
    path
        Its directory.

    Returns
    -------
    dict
        JSON values.

    Raises
    ------
    InputError
        If it is none of these.
    SpladeEdgeError
        What opening it raises.
    """
    from ..artifact import MANIFEST_NAME, is_pair, open_artifact
    from ..errors import InputError
    from ..files import reading
    from ..index.index import Index
    from ..index.layout import MANIFEST_NAME as INDEX_MANIFEST_NAME

    with reading(path):
        is_index, is_artifact = ((path / name).exists() for name in (INDEX_MANIFEST_NAME, MANIFEST_NAME))
    if is_index:
        return _index(Index.open(path))
    if not is_artifact:
        what = "is not an artifact, a pair or an index" if path.is_dir() else "is not a directory"
        raise InputError(f"{path} {what}; make one with splade-edge export or splade-edge index")
    if is_pair(path):
        sides = {side: _artifact(open_artifact(path, side, check=False)) for side in ("query", "document")}
        return {"kind": "pair", "path": str(path), "bytes": bytes_below(path), **sides}
    return {"kind": "artifact", "path": str(path), **_artifact(open_artifact(path, check=False))}


def _artifact(artifact: Artifact) -> dict[str, Any]:
    from ..artifact import variant_files
    from ..cpu import supports

    m = artifact.manifest
    return {
        "role": m.role,
        "encodes_by": m.kind,
        "family": m.family,
        "pooling": m.pooling,
        "activation": m.activation,
        "vocabulary": m.vocab_size,
        "max_length": m.max_length,
        "sides": {
            side: {"prompt": s.prompt, "max_length": s.max_length}
            for side, s in ((side, artifact.settings(side)) for side in artifact.sides)
        },
        "adds_special_tokens": m.adds_special_tokens,
        "split_special_tokens": m.split_special_tokens,
        "truncation_side": m.truncation_side,
        "max_active_dims": m.max_active_dims,
        "normalization": m.normalization,
        "tokenizer": m.tokenizer_from,
        "numerics": m.numerics,
        **({} if m.role == "document" else {"query_idf": m.query_idf}),
        "checkpoint": m.source.checkpoint,
        "revision": m.source.revision,
        "licence": m.source.licence,
        "made_by": m.made_by,
        "bytes": sum(entry.size for entry in m.files.values()),
        "graphs": [
            {
                "backend": v.backend,
                "precision": v.precision,
                "recipe": v.recipe,
                "isa": v.isa,
                "runs_here": supports(v.isa),
                "used_here": v == artifact.variant(v.backend, v.precision),
                "batch_invariant": v.batch_invariant,
                "decodes": "all terms" if v.decoder is None and v.transformer is None else "any terms",
                "bytes": sum(m.files[name].size for name in variant_files(v)),
            }
            for v in m.variants
        ],
    }


def _index(index: Index) -> dict[str, Any]:
    import msgspec

    from ..artifact import open_artifact
    from ..files import safe_join

    m = index.manifest
    about: dict[str, Any] = {
        "kind": "index",
        "path": str(index.path),
        "version": m.version,
        "generation": m.generation,
        "documents": m.live,
        "passages": sum(view.units for view in index.segments) if any(s.passages for s in m.segments) else None,
        "deleted": sum(s.deleted for s in m.segments),
        "segments": len(m.segments),
        "postings": sum(s.postings for s in m.segments),
        "bytes": bytes_below(index.path),
        "vocabulary": m.vocab_size,
        "terms_in_use": index.terms.size,
        "window": 1 << m.window_bits,
        "scale": m.scale,
        "text": msgspec.to_builtins(m.text),
        "statistics": msgspec.to_builtins(m.statistics),
        "document_vectors": msgspec.to_builtins(m.document_vectors),
        "made_by": m.made_by,
        "fields": {
            name: {"numbers": c.numbers, "strings": c.strings, "booleans": c.booleans, "index": c.indexed}
            for name, c in index.fields.items()
        },
    }
    for side, relative in (("query", m.query_encoder), ("document", m.document_encoder)):
        about[f"{side}_encoder"] = (
            None if relative is None else _artifact(open_artifact(safe_join(index.path, relative), check=False))
        )
    return about


def bytes_below(path: Path) -> int:
    """The size of all files under a directory.

    Parameters
    ----------
    path
        The directory.

    Returns
    -------
    int
        Bytes.
    """
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _without_defaults(about: dict[str, Any]) -> dict[str, Any]:
    """What a table shows: settings of how texts are read only if they are unusual."""
    kept: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, dict) and key == "sides":
            usual = {"prompt": "", "max_length": about["max_length"]}
            sides = {side: {k: v for k, v in own.items() if v != usual[k]} for side, own in value.items()}
            kept |= {side: own for side, own in sides.items() if own}
        elif isinstance(value, dict):
            kept[key] = _without_defaults(value)
        elif "sides" not in about or key not in _USUAL or value != _USUAL[key]:
            kept[key] = value
    return kept


def _flatten(about: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Rows of a table: nested objects become ``outer: inner``, numbers get separators."""
    rows = []
    for key, value in about.items():
        name = prefix + key.replace("_", " ")
        if key == "fields":
            rows += _fields(value)
        elif isinstance(value, dict):
            rows += _flatten(value, f"{name}: ")
        elif key == "graphs":
            rows += [(prefix + "graph", _graph(graph)) for graph in value]
        elif key == "bytes":
            rows.append((prefix + "size", human_bytes(value)))
        elif isinstance(value, int) and not isinstance(value, bool):
            rows.append((name, f"{value:,}"))
        else:
            rows.append((name, "none" if value in (None, "") else str(value)))
    return rows


def _fields(fields: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    rows = []
    for name, counts in list(fields.items())[:FIELDS_SHOWN]:
        parts = [f"{counts[kind]:,} {kind}" for kind in KINDS if counts[kind]] or ["no values"]
        rows.append((f"field: {name}", ", ".join(parts + ["with an index"] * counts["index"])))
    if len(fields) > FIELDS_SHOWN:
        rows.append(("fields", f"{len(fields) - FIELDS_SHOWN:,} more (--json shows all)"))
    return rows


def _graph(graph: dict[str, Any]) -> str:
    parts = [f"{graph['backend']} {graph['precision']}", human_bytes(graph["bytes"])]
    if graph["recipe"]:
        parts.append(graph["recipe"])
    if graph["isa"] != "any":
        parts.append(f"for CPUs with {graph['isa'].upper()}")
    if not graph["runs_here"]:
        parts.append("not for this CPU")
    elif not graph["used_here"]:
        parts.append("not used on this CPU, which has a better one")
    if graph["decodes"] == "any terms":
        parts.append("decodes an index's terms alone")
    if not graph["batch_invariant"]:
        parts.append("one text at a time")
    return ", ".join(parts)
