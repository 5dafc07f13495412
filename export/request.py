"""What is to be exported, and what can be seen to be wrong with it before PyTorch is loaded, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..models.custom_family import family_from
from ..models.layout import Side
from ..models.options import OpenOptions
from ..runtime.artifact import MANIFEST_NAME, Backend
from ..runtime.build.foreign_files import refuse_foreign_to_artifact
from ..runtime.build.staging import check_writable_target
from ..runtime.errors import InputError
from ..runtime.idf import check_power
from .auto.retrieval_sets import locate_set
from .recipes import AUTO, recipe_named
from .texts import calibration_texts

DEFAULT_NDCG_DROP = 0.002
DEFAULT_EVAL_DOCUMENTS = 1000


@dataclass(frozen=True)
class ExportRequest:
    """What to export. Either ``checkpoint`` (one encoder, or both sides of a pair), or ``query`` and ``document``.

    ``role`` picks one side of a checkpoint. ``fp32``: keep the float32 graph of a backend that has an int8 one.
    ``recipes`` overrides the int8 recipe of a backend by name; "auto" chooses it by ranking ``eval_data`` (``DIR`` or
    ``DIR:SPLIT`` in BEIR form, of each a sample of ``eval_documents``; default: the bundled set) with at most
    ``max_ndcg_drop`` less nDCG@10. ``search_cache``: a directory that keeps the vectors of the search, so that it can
    be stopped and taken up again.
    """

    output: Path
    checkpoint: str | None = None
    query: str | None = None
    document: str | None = None
    role: Side | None = None
    backends: tuple[Backend, ...] = ("onnx", "openvino")
    int8: bool = True
    fp32: bool = True
    recipes: Mapping[Backend, str] = field(default_factory=dict)
    force: bool = False
    calibration: Path | None = None
    eval_data: tuple[str, ...] = ()
    eval_documents: int = DEFAULT_EVAL_DOCUMENTS
    max_ndcg_drop: float = DEFAULT_NDCG_DROP
    search_cache: Path | None = None
    options: OpenOptions = field(default_factory=OpenOptions)


def check_request(request: ExportRequest) -> None:
    """Check a request before PyTorch is loaded.

    Parameters
    ----------
    request : ExportRequest
        What is to be exported.

    Raises
    ------
    InputError
        If an option is misspelt or not possible, or the output exists.
    CheckpointError
        If a family file is not right.
    """
    check_writable_target(
        request.output, manifest=MANIFEST_NAME, force=request.force, refuse=refuse_foreign_to_artifact
    )
    pair = bool(request.query and request.document and not request.checkpoint and not request.role)
    if not pair and (not request.checkpoint or request.query or request.document):
        raise InputError("name one CHECKPOINT (with --role for one side of it), or both --query and --document")
    for backend, name in request.recipes.items():
        if name != AUTO:
            recipe_named(backend, name)
        if backend not in request.backends:
            raise InputError(f"--recipe {backend}={name} is for a backend that is not exported; add it to --backend")
    if request.recipes and not request.int8:
        raise InputError("--recipe is for int8 graphs; leave out --no-int8")
    if not request.int8 and not request.fp32:
        raise InputError("--no-int8 and --no-fp32 leave nothing to write; leave out one of them")
    if AUTO not in request.recipes.values() and (request.eval_data or request.search_cache):
        raise InputError("--eval-data and --search-cache are for --recipe auto; add that")
    if not 0 <= request.max_ndcg_drop < 1:
        raise InputError(f"--max-ndcg-drop {request.max_ndcg_drop} is not possible; give a number from 0 up to 1")
    if request.options.query_idf is not None:
        check_power(request.options.query_idf)
        if request.role == "document":
            raise InputError("--query-idf is for a query encoder; leave it out with --role document")
    for spec in request.eval_data:
        locate_set(spec)
    if request.options.family:
        family_from(request.options.family)
    calibration_texts(request.calibration)
