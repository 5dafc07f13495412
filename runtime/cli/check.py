"""``splade-edge check``: is every byte of an artifact, a pair or an index as it was written? If not, what is left?"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import add_json_argument
from .console import finished, json_line, plural, printable, write_out

if TYPE_CHECKING:
    from ..artifact import Artifact, Side

_DESCRIPTION = """\
Check the SHA-256 of every file and, for an index, postings, stored documents, and that its encoders load as a search
loads them. For an artifact the parity with PyTorch is repeated where the [export] extra and the source checkpoint are
at hand. `splade-edge verify` is another name of this command.

--repair writes what can be saved of a damaged index, and says what was lost. It keeps what a checksum proves (posting
lists, documents, graphs), makes again what follows from it (maxima, block-max data, indexes of fields), and drops the
rest. The repaired index is checked in full and then takes the old one's place in one step. The old one stays beside it
as DIR.damaged until you delete it. A file that cannot be read (no permission, a failing disk) may be whole: then
nothing is repaired, unless --without-unreadable says to drop it."""
_EXAMPLES = """\
examples:
  splade-edge check artifact/
  splade-edge check artifact/ --source naver/efficient-splade-VI-BT-large-query
  splade-edge check index/ --json
  splade-edge check index/ --repair
  splade-edge check index/ --repair -o repaired/"""
HOOK_GROUP, HOOK_NAME = "splade_edge.hooks", "repeat_parity"


class CheckCommand:
    """The command ``check``: verifies every byte, repairs an index, repeats the parity of an artifact."""

    help = "check every byte of an artifact, a pair or an index; repair an index"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description = _DESCRIPTION
        parser.epilog = _EXAMPLES
        parser.add_argument("directory", metavar="DIR", help="an artifact, a pair or an index")
        parser.add_argument(
            "--repair", action="store_true", help="put an index of what can be saved in the place of a damaged one"
        )
        parser.add_argument(
            "-o", "--output", metavar="DIR", help="leave the damaged index as it is and write the repaired one here"
        )
        parser.add_argument(
            "--without-unreadable",
            action="store_true",
            help="repair although some files cannot be read, and drop what is in them",
        )
        parser.add_argument(
            "--field",
            metavar="NAME",
            action="append",
            dest="fields",
            help="a stored field that gets an index where these are made again (again for more; default: those that "
            "had one)",
        )
        parser.add_argument(
            "--source",
            metavar="CHECKPOINT",
            help="of an artifact: where the checkpoint is now (default: the place its manifest names, if that is a "
            "directory)",
        )
        parser.add_argument("--no-parity", action="store_true", help="do not repeat the parity")
        add_json_argument(parser, "the checks")

    def run(self, args: argparse.Namespace) -> int:
        """Print one line for each check that was made and each that was not. A failed check raises."""
        from ..artifact import MANIFEST_NAME
        from ..errors import InputError, export_again
        from ..files import reading
        from ..index.layout import MANIFEST_NAME as INDEX_MANIFEST_NAME

        path = Path(args.directory)
        with reading(path):
            known = {name for name in (MANIFEST_NAME, INDEX_MANIFEST_NAME) if (path / name).exists()}
        if not known:
            raise InputError(
                f"{path} is no artifact, pair or index: it has neither {MANIFEST_NAME} nor {INDEX_MANIFEST_NAME}"
            )
        is_index = INDEX_MANIFEST_NAME in known
        if is_index and args.source:
            raise InputError("--source is for artifacts; an index has no checkpoint to compare with")
        if args.repair and not is_index:
            raise InputError(f"{path} is an artifact, and --repair is for an index; copy it again, or {export_again()}")
        for option in ("output", "fields", "without_unreadable"):
            if getattr(args, option) and not args.repair:
                raise InputError(f"--{option.removesuffix('s').replace('_', '-')} is for --repair; add it")
        if args.repair:
            report = _repair(path, args)
            path = Path(args.output) if args.output and report["damaged"] else path
        else:
            report = {}
        checks = _check_index(path) if is_index else _check_artifacts(path, args.source, parity=not args.no_parity)
        with finished(f"the repaired index is in {path}" if report.get("damaged") else None):
            if args.json:
                write_out(json_line({"path": str(path), "checks": checks, **report}))
                return 0
            for line in _lines(report):
                write_out(printable(line))
            for check in checks:
                mark = "ok" if check["done"] else "not checked"
                write_out(f"{mark}: {printable(check['what'])}")
        return 0


def _repair(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    from ..repair.recovery import repair_index

    repair = repair_index(path, args.output, fields=args.fields, without_unreadable=args.without_unreadable)
    return {
        "damaged": repair.damaged,
        "rebuilt": repair.rebuilt,
        "lost": repair.lost,
        "rescued": None if repair.rescued is None else str(repair.rescued),
        "original": None if repair.original is None else str(repair.original),
    }


def _lines(report: dict[str, Any]) -> list[str]:
    """The lines that report a repair to people."""
    if not report:
        return []
    if not report["damaged"]:
        return ["nothing is damaged; nothing was written"]
    lines = [f"damaged: {name} {reason}" for name, reason in report["damaged"].items()]
    lines += [f"made again: {name}" for name in report["rebuilt"]]
    lines += [f"lost: {what}" for what in report["lost"]] or ["lost: nothing"]
    if report["rescued"]:
        lines.append(f"saved: documents that are not in the index any more, in {report['rescued']}; add them again")
    if report["original"]:
        lines.append(f"kept: the damaged index, in {report['original']}; delete it when you do not need it any more")
    return lines


def _check_index(path: Path) -> list[dict[str, Any]]:
    from ..artifact import open_artifact
    from ..files import safe_join
    from ..repair.check import check_index

    index = check_index(path)
    m = index.manifest
    gone = sum(s.deleted for s in m.segments)
    deleted = f" and {gone:,} deleted ones, in {plural(len(m.segments), 'segment')}" if gone else ""
    checks = [
        _done(f"{path}: SHA-256 of {len(m.files)} files"),
        _done(f"{path}: {sum(s.postings for s in m.segments):,} postings, {len(index):,} stored documents{deleted}"),
    ]
    sides: list[tuple[Side, str | None]] = [("query", m.query_encoder), ("document", m.document_encoder)]
    for side, relative in sides:
        if relative is not None:
            encoder = open_artifact(safe_join(path, relative), check=False)
            checks.append(_done(f"{encoder.path}: SHA-256 of {len(encoder.manifest.files)} files"))
            checks.append(_loaded(encoder, side))
    return checks


def _loaded(artifact: Artifact, side: Side) -> dict[str, Any]:
    """Load an encoder as a search does, and encode a text: hashes that fit prove no more than who wrote them.

    Raises ArtifactError, IntegrityError.
    """
    from ..encoder import Encoder
    from ..errors import MissingExtraError

    what = f"{artifact.path}: it loads, and encodes a text"
    try:
        Encoder(artifact, threads=1, side=side).encode(["a"], side)
    except MissingExtraError as error:
        return _not_done(f"{what} ({error})")
    return _done(what)


def _check_artifacts(path: Path, source: str | None, *, parity: bool) -> list[dict[str, Any]]:
    from ..artifact import open_all

    artifacts = open_all(path)
    checks = [_done(f"{a.path}: SHA-256 of {len(a.manifest.files)} files") for a in artifacts]
    for artifact in artifacts:
        what = f"{artifact.path}: parity with its checkpoint's library"
        if not parity:
            checks.append(_not_done(f"{what} (--no-parity)"))
            continue
        missing = repeat_parity(artifact, source)
        checks.append(_not_done(f"{what} ({missing})") if missing else _done(what))
    return checks


def repeat_parity(artifact: Artifact, source: str | None) -> str | None:
    """Repeat the parity of an artifact with its checkpoint, by a hook of the export extra.

    Parameters
    ----------
    artifact
        The artifact.
    source
        Where the checkpoint is now; None: where the manifest says.

    Returns
    -------
    str or None
        Why the parity could not be repeated; None if it was.

    Raises
    ------
    ParityError
        If the artifact does not compute what the checkpoint does.
    """
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
