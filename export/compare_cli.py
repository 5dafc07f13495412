"""``splade-edge compare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.cli.command import add_json_argument, positive_int

if TYPE_CHECKING:
    from ..models.layout import Side
    from ..runtime.artifact import Artifact
    from .compare import Comparison

_DESCRIPTION = """\
Encode texts of your own with an exported artifact and with the library that made its checkpoint, and show how far their
vectors are from each other: a row a text, and a picture of weight against weight. The exit code is 1 where a weight
differs by more than the tolerance."""
_EPILOG = """\
FILE holds one text a line; a corpus or queries as splade-edge index reads them (.jsonl, .tsv, .gz) will do, too.

examples:
  splade-edge compare artifact/ my-checkpoint --texts queries.txt
  splade-edge compare pair/ models/default --texts corpus.jsonl --side document --limit 100 --plot weights.png
  splade-edge compare pair/ models/default --texts queries.txt --precision int8 --tolerance 0.05"""
_SHOWN = 40


class CompareCommand:
    """Thin: reads texts, asks for the comparison, prints it. A ``Command`` of :mod:`splade_edge.runtime.cli`."""

    help = "compare an artifact with its checkpoint on your own texts"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.description, parser.epilog = _DESCRIPTION, _EPILOG
        parser.add_argument("artifact", metavar="ARTIFACT", help="an exported artifact or pair")
        parser.add_argument("checkpoint", metavar="CHECKPOINT", help="directory or hub id that it was exported from")
        parser.add_argument("--texts", metavar="FILE", required=True, help="texts to encode")
        parser.add_argument(
            "--side", choices=("query", "document"), help="encode them as these alone (default: as all that is served)"
        )
        parser.add_argument("--limit", metavar="N", type=positive_int, help="take the first N texts alone")
        parser.add_argument("--backend", choices=("kernel", "onnx", "openvino"), help="graph to run")
        parser.add_argument("--precision", choices=("fp32", "int8"), help="graph to run (default: fp32 if exported)")
        parser.add_argument(
            "--tolerance",
            metavar="X",
            type=float,
            help="allowed difference of a weight, as a share of the largest (default: 0.001 for fp32, 0.1 for int8)",
        )
        parser.add_argument("--plot", metavar="FILE", help="draw weight against weight (.png, .svg or .pdf)")
        parser.add_argument("--offline", action="store_true", help="use the hub cache only")
        parser.add_argument("--allow-pickle", action="store_true", help="open weights that are a pickle")
        parser.add_argument("--trust-remote-code", action="store_true", help="run model code of the checkpoint")
        add_json_argument(parser, "the comparison")

    def run(self, args: argparse.Namespace) -> int:
        """Print the comparison. Returns 1 where a weight differs by more than the tolerance."""
        from ..runtime.artifact import open_all
        from ..runtime.errors import InputError

        if args.plot and Path(args.plot).suffix not in (".png", ".svg", ".pdf"):
            raise InputError(f"--plot {args.plot} is no picture; name it .png, .svg or .pdf")
        if args.plot and not Path(args.plot).absolute().parent.is_dir():
            raise InputError(f"--plot {args.plot} is in a folder that is not there; make it first")
        if args.tolerance is not None and not args.tolerance >= 0:
            raise InputError(f"--tolerance {args.tolerance} is not possible; give a share such as 0.001")
        chosen = [(artifact, sides) for artifact in open_all(args.artifact) if (sides := _sides(artifact, args.side))]
        if not chosen:
            raise InputError(f"{args.artifact} does not serve a {args.side} side; leave out --side")
        texts = _texts(Path(args.texts), args.limit)
        found = [_compare(args, artifact, texts, sides) for artifact, sides in chosen]
        allowed = [_tolerance(args, comparison) for comparison in found]
        fine = all(c.worst <= limit and c.texts and not c.failed for c, limit in zip(found, allowed, strict=True))
        if args.json:
            _print_json(found, allowed, fine=fine)
        else:
            _print_tables(found, allowed)
        if args.plot:
            _draw(found, Path(args.plot))
        return 0 if fine else 1


def _sides(artifact: Artifact, asked: Side | None) -> list[Side]:
    served: list[Side] = [side for side in ("query", "document") if artifact.serves(side)]
    return [side for side in served if asked in (None, side)]


def _texts(path: Path, limit: int | None) -> list[str]:
    from itertools import islice

    from ..runtime.errors import InputError
    from .compare import lines_of

    texts = list(islice(lines_of(path), limit))
    if not texts:
        raise InputError(f"{path} has no text; give one a line")
    return texts


def _compare(args: argparse.Namespace, artifact: Artifact, texts: list[str], sides: list[Side]) -> Comparison:
    from ..models.options import OpenOptions
    from .compare import compare

    options = OpenOptions(
        offline=args.offline, allow_pickle=args.allow_pickle, trust_remote_code=args.trust_remote_code
    )
    table = any(variant.backend == "table" for variant in artifact.manifest.variants)
    return compare(
        artifact, args.checkpoint, texts, sides,
        backend=None if table else args.backend, precision=None if table else args.precision, options=options,
    )  # fmt: skip


def _tolerance(args: argparse.Namespace, comparison: Comparison) -> float:
    from .compare import TOLERANCES

    default = TOLERANCES["fp32" if comparison.graph.endswith("fp32") else "int8"]
    return default if args.tolerance is None else float(args.tolerance)


def _print_tables(found: list[Comparison], allowed: list[float]) -> None:
    from ..runtime.cli.console import cell, new_console, new_table, plural, warn, write_out

    for comparison, limit in zip(found, allowed, strict=True):
        table = new_table("side", "text", ">terms", ">theirs", ">difference", ">of the largest", "at", ">cosine")
        for text in comparison.texts:
            share = text.difference / comparison.largest if comparison.largest else text.difference
            shown = text.text if len(text.text) <= _SHOWN else text.text[:_SHOWN] + "…"
            row = (text.side, shown, f"{text.terms:,}", f"{text.witness_terms:,}", f"{text.difference:.1e}",
                   f"{share:.1e}", text.term, f"{text.cosine:.5f}")  # fmt: skip
            table.add_row(*(cell(part, "bold red" if share > limit else "") for part in row))
        new_console().print(table)
        verdict = "within" if comparison.worst <= limit else "beyond"
        write_out(
            f"{plural(len(comparison.texts), 'vector')} of {comparison.graph} beside {comparison.witness}: the largest "
            f"difference is {comparison.worst:.1e} of the largest weight, {verdict} the tolerance of {limit:g}"
        )
        if comparison.reason:
            warn("note", f"compared with {comparison.witness}, since {comparison.reason}")
        if comparison.failed:
            warn("note", f"{comparison.witness} itself fails on {plural(len(comparison.failed), 'text')}")


def _print_json(found: list[Comparison], allowed: list[float], *, fine: bool) -> None:
    from ..runtime.cli.console import json_line, write_out

    graphs: list[dict[str, Any]] = [
        {
            "graph": c.graph,
            "witness": c.witness,
            "reason": c.reason,
            "tolerance": limit,
            "worst": c.worst,
            "failed": c.failed,
            "texts": [
                {
                    "side": text.side,
                    "text": text.text,
                    "terms": text.terms,
                    "witness_terms": text.witness_terms,
                    "difference": text.difference,
                    "term": text.term,
                    "cosine": text.cosine,
                }
                for text in c.texts
            ],
        }
        for c, limit in zip(found, allowed, strict=True)
    ]
    write_out(json_line({"within_tolerance": fine, "graphs": graphs}))


def _draw(found: list[Comparison], path: Path) -> None:
    from dataclasses import replace

    from ..runtime.cli.console import warn
    from ..runtime.files import storage_errors
    from .compare import draw

    names = dict.fromkeys(c.graph for c in found)
    together = replace(found[0], graph=", ".join(names), texts=[text for c in found for text in c.texts])
    with storage_errors(path):
        draw(together, path)
    warn("note", f"drew {path}")


command = CompareCommand()
