"""Settings of a run file that would be ignored in silence: each is an error that says what to do.

Only what the run's own file asks for counts: a file it ``extends`` may say more than this run needs. 0, false and an
empty list ask for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .settings import RunFile

_OF_BASE = ("dense", "lexical", "weight", "max_length")
_OF_QUERY_VECTORS = ("vector_weight", "idf", "document_vectors", "random_words")
_OF_BATCHES = ("negatives", "negative_depth", "miner", "chunk")
_OF_SCORES = ("contrastive", "scale")
_OF_A_NEW_HEAD = ("sharpness", "threshold", "idf_slope")


def unused_setting(own: Mapping[str, Any], run: RunFile) -> str | None:
    """Find a setting that a run makes no use of.

    Parameters
    ----------
    own : mapping
        The tables of the run's own file.
    run : RunFile
        The run.

    Returns
    -------
    str or None
        What is wrong with the first such setting, None if there is none.
    """
    return next(_unused(own, run), None)


def _unused(own: Mapping[str, Any], run: RunFile) -> Iterator[str]:
    teacher, training = own.get("teacher", {}), own.get("training", {})
    ranks = run.objective == "retrieval"
    if not ranks:
        fits = run.objective == "index"
        for key in () if fits else _asked(teacher, ("base", *_OF_BASE)):
            yield f'[teacher] {key} is for objective = "retrieval" or "index"; leave it out'
        for key in () if fits else _asked(training, _OF_SCORES):
            yield f'[training] {key} is for objective = "retrieval" or "index"; leave it out'
        for key in _asked(training, _OF_BATCHES):
            yield f'[training] {key} is for objective = "retrieval"; leave it out'
        for key in _asked(training, ("evaluation_documents",)) if fits else ():
            yield f'[training] {key} does nothing with objective = "index", which searches whole sets; leave it out'
    if run.teacher.base is None:
        for key in _asked(teacher, _OF_BASE):
            yield f"[teacher] {key} does nothing without a dense teacher; add base, or leave it out"
        if any(_asked(entry, ("lexical",)) for entry in own.get("sets", [])):
            yield "lexical of a set does nothing without a dense teacher; add [teacher] base, or leave it out"
    if any(entry.get("dev_queries") and not entry.get("dev") for entry in own.get("sets", [])):
        yield "dev_queries of a set does nothing without dev; add the split, or leave it out"
    if run.objective != "index":
        for key in _asked(teacher, ("random_words",)):
            yield f'[teacher] {key} is for objective = "index"; leave it out'
    if not run.training.fragments:
        for key in _asked(training, ("keywords",)):
            yield f"[training] {key} is a share of the fragments, and there are none; add fragments, or leave it out"
    if run.objective != "index" and any(_asked(entry, ("index",)) for entry in own.get("sets", [])):
        yield 'index of a set is for objective = "index"; leave it out'
    if run.teacher.query_vectors is None:
        for key in _asked(teacher, _OF_QUERY_VECTORS):
            yield f"[teacher] {key} does nothing without query_vectors; add it, or leave {key} out"
    elif not run.teacher.idf and _asked(teacher, ("document_vectors",)):
        yield "[teacher] document_vectors does nothing without idf; add it, or leave document_vectors out"
    if run.objective == "mlm":
        for key in _asked(training, ("fragments",)):
            yield f'[training] {key} does nothing with objective = "mlm"; leave it out'
    elif own.get("middle"):
        yield '[middle] is for objective = "mlm"; leave it out'
    if ranks and run.training.negatives >= run.training.negative_depth:
        yield f"[training] negatives = {run.training.negatives} must be below negative_depth; raise that"
    if run.document is None and own.get("document_regularizer"):
        yield "[document_regularizer] does nothing without [document]; leave it out"
    for side in ("query", "document"):
        if getattr(run, f"{side}_regularizer").penalty == "none":
            for key in _asked(own.get(f"{side}_regularizer", {}), ("terms",)):
                yield f'[{side}_regularizer] {key} does nothing with penalty = "none"; leave it out'
        encoder = getattr(run, side)
        if encoder is None:
            continue
        if encoder.head == "keep":
            for key in _asked(own.get(side, {}), _OF_A_NEW_HEAD):
                yield f'[{side}] {key} is for a new head; add head = "lexical" or "identity", or leave it out'
        if encoder.width is None:
            for key in _asked(own.get(side, {}), ("attention_heads",)):
                yield f"[{side}] {key} is for a new, narrow encoder; add width, or leave it out"
        elif encoder.layers == []:
            yield f"[{side}] layers = [] is an encoder without layers; list as many as it shall have"


def _asked(table: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    return [key for key in keys if table.get(key)]
