"""The options of an export, declared once for ``splade-edge export`` and ``optimum-cli export splade``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill, indent

from ..models.custom_family import EXAMPLE
from ..models.families import FAMILIES
from ..models.options import OpenOptions
from ..runtime.artifact import Backend
from ..runtime.cli.command import exponent, positive_int
from .recipes import AUTO
from .request import DEFAULT_EVAL_DOCUMENTS, DEFAULT_NDCG_DROP, ExportRequest

DESCRIPTION = """\
Export a SPLADE checkpoint to ONNX and OpenVINO, in float32 and int8. Every graph is compared on text with the library
that made the checkpoint, sentence-transformers, through the runtime's own tokenizer, prompts and lengths. If a float32
graph differs, the export fails and nothing is written."""
EPILOG = """\
a checkpoint is a directory or a hub id: a masked-language model of transformers, a sentence-transformers sparse
encoder, an Efficient SPLADE repository that holds both encoders, or a directory with query/ and document/

examples:
  {prog} naver/splade-v3-distilbert -o artifact/
  {prog} models/default -o pair/
  {prog} --query naver/efficient-splade-VI-BT-large-query --document naver/efficient-splade-VI-BT-large-doc -o pair/
  {prog} naver/efficient-splade-V-large-doc --role document -o document/ --backend onnx --no-int8
  {prog} my-checkpoint -o artifact/ --family my.toml
  {prog} models/default -o pair/ --recipe auto --eval-data my-beir-set --calibration corpus.jsonl

families:
{families}

a family file (my.toml):
{family_file}"""
BACKENDS: tuple[Backend, ...] = ("onnx", "openvino")


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of an export.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        It gets the arguments, a description and an epilog.
    """
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.format(
        prog=parser.prog,
        families=fill(", ".join(f.name for f in FAMILIES), 110, initial_indent="  ", subsequent_indent="  "),
        family_file=indent(EXAMPLE, "  "),
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", help="directory or hub id; one with both sides exports the pair"
    )
    parser.add_argument("--query", metavar="CHECKPOINT", help="query encoder of a pair, with --document")
    parser.add_argument("--document", metavar="CHECKPOINT", help="document encoder of a pair, with --query")
    parser.add_argument("--role", choices=("query", "document"), help="export this side of CHECKPOINT only")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the artifact or pair to write")
    parser.add_argument(
        "--backend", metavar="LIST", type=_backends, default=BACKENDS, help="any of onnx,openvino (default: both)"
    )
    parser.add_argument(
        "--int8", action=argparse.BooleanOptionalAction, default=True, help="write int8 graphs beside float32"
    )
    parser.add_argument(
        "--fp32",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep float32 graphs where there is an int8 one; they are made and compared in any case",
    )
    parser.add_argument(
        "--recipe",
        metavar="BACKEND=NAME|auto",
        type=_recipe,
        action="append",
        default=[],
        help="int8 recipe of a backend, such as openvino=activations; auto, or BACKEND=auto, tries all and takes the "
        "fastest that keeps the ranking, which takes long (default: onnx=vocabulary, openvino=weights)",
    )
    parser.add_argument(
        "--eval-data",
        metavar="DIR[:SPLIT]",
        action="append",
        default=[],
        help="with --recipe auto: a retrieval set in BEIR form to compare rankings on; may be repeated. Without "
        "qrels/, at least 500 queries are compared by rank-biased overlap alone (default: a bundled set)",
    )
    parser.add_argument(
        "--eval-documents",
        metavar="N",
        type=positive_int,
        default=DEFAULT_EVAL_DOCUMENTS,
        help="of each set, N documents are used: judged ones for up to 500 queries, and others at random",
    )
    parser.add_argument(
        "--max-ndcg-drop",
        metavar="X",
        type=float,
        default=DEFAULT_NDCG_DROP,
        help="with --recipe auto: allowed loss of nDCG@10, mean over all queries; 15 times as much of the rank-biased "
        "overlap with float32 may be lost",
    )
    parser.add_argument(
        "--search-cache", metavar="DIR", help="with --recipe auto: keep vectors here, so that it can be taken up again"
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="sample text for recipes that need it: a corpus, or JSON lines with kind and text (default: bundled)",
    )
    parser.add_argument(
        "--max-length", metavar="N", type=positive_int, help="cut texts at N tokens, special ones included"
    )
    parser.add_argument(
        "--prompt-query", metavar="TEXT", help="put TEXT before every query, instead of what the files state"
    )
    parser.add_argument(
        "--prompt-document",
        metavar="TEXT",
        help="put TEXT before every document, instead of what the checkpoint states",
    )
    parser.add_argument(
        "--max-active-dims",
        metavar="N",
        type=positive_int,
        help="keep the N largest weights of a text alone, instead of what the checkpoint states",
    )
    parser.add_argument(
        "--tokenizer",
        choices=("class", "file"),
        help="which tokenizer to export where the two read a text otherwise: the one that transformers builds from its "
        "class (as sentence-transformers does), or tokenizer.json as it is",
    )
    parser.add_argument(
        "--ignore",
        metavar="KEY",
        action="append",
        default=[],
        help="a key of the checkpoint's files that is not known here and that changes no vector; may be repeated",
    )
    parser.add_argument(
        "--query-idf",
        metavar="POWER",
        type=exponent,
        help="searches multiply query weights with this power of the terms' inverse document frequency in the index, "
        "unless told otherwise (default: query_idf of the checkpoint's config.json, else 0: off)",
    )
    parser.add_argument(
        "--family",
        metavar="NAME|FILE",
        help="family of the encoder, where its files do not tell: a name, or a .toml file that describes one",
    )
    parser.add_argument(
        "--licence", "--license", metavar="NAME", help="licence to record, where the checkpoint states none"
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub repository")
    parser.add_argument("--offline", action="store_true", help="use the hub cache only")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="open weights that are a pickle, which can run code"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run model code that the checkpoint brings")
    parser.add_argument("--force", action="store_true", help="replace an artifact that is there")


def request_from(args: argparse.Namespace) -> ExportRequest:
    """The export that parsed arguments ask for.

    Parameters
    ----------
    args : argparse.Namespace
        What a parser with :func:`add_export_arguments` has read.

    Returns
    -------
    ExportRequest
        It is not checked yet (see :func:`check_request`).
    """
    return ExportRequest(
        output=Path(args.output),
        checkpoint=args.checkpoint,
        query=args.query,
        document=args.document,
        role=args.role,
        backends=args.backend,
        int8=args.int8,
        fp32=args.fp32,
        recipes=_recipes(args.recipe, args.backend),
        force=args.force,
        calibration=Path(args.calibration) if args.calibration else None,
        eval_data=tuple(args.eval_data),
        eval_documents=args.eval_documents,
        max_ndcg_drop=args.max_ndcg_drop,
        search_cache=Path(args.search_cache) if args.search_cache else None,
        options=OpenOptions(
            revision=args.revision,
            offline=args.offline,
            allow_pickle=args.allow_pickle,
            trust_remote_code=args.trust_remote_code,
            family=args.family,
            max_length=args.max_length,
            licence=args.licence,
            query_idf=args.query_idf,
            prompt_query=args.prompt_query,
            prompt_document=args.prompt_document,
            max_active_dims=args.max_active_dims,
            tokenizer=args.tokenizer,
            ignore=tuple(args.ignore),
        ),
    )


def _backend(name: str) -> Backend:
    for backend in BACKENDS:
        if name == backend:
            return backend
    raise argparse.ArgumentTypeError(f"{name!r} is not a backend; there are: {', '.join(BACKENDS)}")


def _backends(text: str) -> tuple[Backend, ...]:
    """A comma-separated list of backends, in our order and each once."""
    asked = {_backend(name.strip()) for name in text.split(",")}
    return tuple(backend for backend in BACKENDS if backend in asked)


def _recipes(asked: Sequence[tuple[Backend | None, str]], backends: Sequence[Backend]) -> dict[Backend, str]:
    """The recipe asked for each backend; a bare ``auto`` is for all that have none of their own."""
    recipes: dict[Backend, str] = {}
    for backend, name in sorted(asked, key=lambda recipe: recipe[0] is not None):
        recipes |= dict.fromkeys(backends, name) if backend is None else {backend: name}
    return recipes


def _recipe(text: str) -> tuple[Backend | None, str]:
    if text == AUTO:
        return None, AUTO
    backend, separator, name = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor BACKEND=NAME, such as onnx=dynamic")
    return _backend(backend), name
