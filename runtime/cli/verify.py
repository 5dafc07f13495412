"""``splade-edge verify``: is every byte of an artifact, a pair or an index as it was written?"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import add_json_argument
from .console import json_line, printable, write_out

if TYPE_CHECKING:
    from ..artifact import Artifact

_EXAMPLES = """\
examples:
  splade-edge verify artifact/
  splade-edge verify artifact/ --source naver/efficient-splade-VI-BT-large-query
  splade-edge verify index/ --json"""
HOOK_GROUP, HOOK_NAME = "splade_edge.hooks", "repeat_parity"


class VerifyCommand:
    """Checks hashes (and an index's contents); repeats the parity through a hook of the export extra."""

    help = "check every byte of an artifact, a pair or an index"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description = (
            "Check the SHA-256 of every file and, for an index, postings and stored documents. For an artifact the\n"
            "parity with PyTorch is repeated where the [export] extra and the source checkpoint are at hand."
        )
        parser.epilog = _EXAMPLES
        parser.add_argument("directory", metavar="DIR", help="an artifact, a pair or an index")
        parser.add_argument(
            "--source",
            metavar="CHECKPOINT",
            help="where the checkpoint is now (default: the place its manifest names, if that is a directory)",
        )
        parser.add_argument("--no-parity", action="store_true", help="do not repeat the parity")
        add_json_argument(parser, "the checks")

    def run(self, args: argparse.Namespace) -> int:
        """Print a line for each check made and each not made. A failed check raises."""
        from ..artifact import MANIFEST_NAME
        from ..errors import InputError
        from ..index.layout import MANIFEST_NAME as INDEX_MANIFEST_NAME

        path = Path(args.directory)
        if not any((path / name).exists() for name in (MANIFEST_NAME, INDEX_MANIFEST_NAME)):
            raise InputError(
                f"{path} is no artifact, pair or index: it has neither {MANIFEST_NAME} nor {INDEX_MANIFEST_NAME}"
            )
        if (path / INDEX_MANIFEST_NAME).exists():
            if args.source:
                raise InputError("--source is for artifacts; an index has no checkpoint to compare with")
            checks = _verify_index(path)
        else:
            checks = _verify_artifacts(path, args.source, parity=not args.no_parity)
        if args.json:
            write_out(json_line({"path": str(path), "checks": checks}))
        else:
            for check in checks:
                mark = "ok" if check["done"] else "not checked"
                write_out(f"{mark}: {printable(check['what'])}")
        return 0


def _verify_index(path: Path) -> list[dict[str, Any]]:
    from ..artifact import open_artifact
    from ..files import safe_join
    from ..index.index import Index

    index = Index.open(path)
    index.check()
    m = index.manifest
    checks = [
        _done(f"{path}: SHA-256 of {len(m.files)} files"),
        _done(f"{path}: {sum(s.postings for s in m.segments):,} postings, {len(index):,} stored documents"),
    ]
    for relative in (m.query_encoder, m.document_encoder):
        if relative is not None:
            encoder = open_artifact(safe_join(path, relative))
            checks.append(_done(f"{encoder.path}: SHA-256 of {len(encoder.manifest.files)} files"))
    return checks


def _verify_artifacts(path: Path, source: str | None, *, parity: bool) -> list[dict[str, Any]]:
    from ..artifact import open_all

    artifacts = open_all(path)
    checks = [_done(f"{a.path}: SHA-256 of {len(a.manifest.files)} files") for a in artifacts]
    for artifact in artifacts:
        what = f"{artifact.path}: parity with PyTorch"
        if not parity:
            checks.append(_not_done(f"{what} (--no-parity)"))
            continue
        missing = repeat_parity(artifact, source)
        checks.append(_not_done(f"{what} ({missing})") if missing else _done(what))
    return checks


def repeat_parity(artifact: Artifact, source: str | None) -> str | None:
    """Ask the hook to repeat the parity; returns why it could not, None if it did. Raises ParityError."""
    from importlib.metadata import entry_points

    points = list(entry_points(group=HOOK_GROUP, name=HOOK_NAME))
    if not points:
        return "the [export] part of splade-edge is not installed"
    try:
        hook: Callable[[Artifact, str | None], str | None] = points[0].load()
        return hook(artifact, source)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("splade_edge"):
            raise
        return f"it needs the [export] extra: pip install 'splade-edge[export]' (no module {error.name})"


def _done(what: str) -> dict[str, Any]:
    return {"what": what, "done": True}


def _not_done(what: str) -> dict[str, Any]:
    return {"what": what, "done": False}
