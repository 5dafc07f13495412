"""A training run as data: the TOML file a user writes, checked before anything heavy is loaded."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from ...runtime.errors import InputError
from .unused import unused_setting

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Whole = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Tokens = Annotated[int, Meta(ge=4)]

Objective = Literal["retrieval", "mlm", "imitation", "index"]
Head = Literal["keep", "identity", "lexical"]
Penalty = Literal["l1", "flops", "none"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A table of the run file; a key that is not a field is an error.

    Defaults are left out where it is encoded, so that a checkpoint's identity stays when a key is added.
    """


class SetSettings(Section, frozen=True):
    """One retrieval set in BEIR form.

    ``path``: its directory, relative to the run file. ``split``: the qrels to learn from. ``queries``: its queries
    file, if it is not ``queries.jsonl[.gz]``. ``weight``: its share of the steps, relative to the other sets.
    ``held_out``: how many of its queries are left out of training and measure nDCG@10 during it. ``dev``: other qrels
    whose queries measure it instead (``held_out`` of them, 0 for all; a query to learn from that has the text of one is
    left out); ``dev_queries``: their file, if it is not ``queries.jsonl[.gz]``. ``lexical``: the weight of BM25 in this
    set's teacher (default: that of ``[teacher]``). ``index``: an index of its corpus, for objective "index".
    """

    path: str
    split: str = "train"
    queries: str | None = None
    weight: NotNegative = 1.0
    held_out: Whole = 0
    dev: str | None = None
    dev_queries: str | None = None
    lexical: NotNegative | None = None
    index: str | None = None


class EncoderSettings(Section, frozen=True):
    """One encoder.

    ``base``: the checkpoint directory it starts from, relative to the run file. ``layers``: which of its layers are
    kept, in order (default: all). ``width``: make a narrow encoder instead: word embeddings of this width are the
    principal components of those of ``base``, the rest (``layers`` counted, ``attention_heads``) is random.

    ``head``: "keep" the one of ``base`` (a masked-language model), "identity" (hidden states pass through), or
    "lexical" (a least-squares fit after which each position's logits name its own token and its neighbours in
    meaning; see :mod:`lexical_head`). ``sharpness``: scale of a new head's logits: "lexical", the mean logit of a
    position's own token; "identity", the length of the normalized states. ``threshold``: what is subtracted through
    the decoder bias, in units of ``sharpness``; ``idf_slope``: how much of a term's centred idf is added there.
    ``silent``: vocabulary classes that never get weight ("special", "stop words", "punctuation").

    ``freeze``: parameters whose names contain one of these stay as they are; ``frozen``: all of them do.
    ``max_length``: tokens of a training text, special ones included.
    """

    base: str
    layers: list[int] | None = None
    width: Count | None = None
    attention_heads: Count = 2
    head: Head = "keep"
    sharpness: Positive = 6.0
    threshold: NotNegative = 0.6
    idf_slope: NotNegative = 0.0
    silent: list[Literal["special", "stop words", "punctuation"]] = field(
        default_factory=lambda: ["special", "stop words", "punctuation"]
    )
    freeze: list[str] = field(default_factory=list)
    frozen: bool = False
    max_length: Tokens = 128


class TeacherSettings(Section, frozen=True):
    """What is distilled. A teacher's score of (q, d) is ``dense * cosine + lexical * BM25``.

    ``base``: a dense encoder (mean or CLS pooling), None for no distillation. ``weight``: of the KL divergence in the
    loss. ``query_vectors``: a SPLADE query encoder whose vectors the query encoder imitates, with ``vector_weight``.
    Their weights are first multiplied by the power ``idf`` of the terms' inverse document frequency (see
    :mod:`rarity`); ``document_vectors``: a document encoder in whose vectors it is counted as well as in the words
    of the documents. ``random_words``: the weight of imitating them on random words of the vocabulary too, as many
    texts as a batch has, so that words without a training query keep theirs (objective "index").
    """

    base: str | None = None
    weight: NotNegative = 1.0
    dense: NotNegative = 20.0
    lexical: NotNegative = 0.0
    max_length: Tokens = 128
    query_vectors: str | None = None
    vector_weight: NotNegative = 1.0
    idf: NotNegative = 0.0
    document_vectors: str | None = None
    random_words: NotNegative = 0.0


class RegularizerSettings(Section, frozen=True):
    """Sparsity of one side: FLOPS (Paria et al. 2020) or, as the paper has it for queries, L1.

    Defaults: L1 and 8 terms for queries, FLOPS and 150 terms for documents.

    ``weight`` grows quadratically over ``ramp`` steps. With ``terms`` it is then steered so that the mean number of
    terms of a text meets it: the weight is multiplied by ``(terms now / terms wanted) ** steer`` after each step
    (``steer = 0``: never).
    """

    penalty: Penalty
    weight: NotNegative = 0.01
    ramp: Whole = 100
    terms: Positive | None = None
    steer: NotNegative = 0.02


class MiddleSettings(Section, frozen=True):
    """FLOPS-regularized middle-training on the collections' texts (objective "mlm")."""

    mask_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.15


class TrainingSettings(Section, frozen=True):
    """Steps and optimizer (AdamW, linear warm-up and decay).

    ``batch``: queries a step; ``negatives``: hard negatives a query; ``negative_depth``: they are drawn from the first
    so many mined ones; ``miner``: the pair that mines them, a directory with ``query/`` and ``document/`` (default:
    BM25, which always mines those of fragments); ``accumulate``: batches an update; ``chunk``: texts encoded at a time
    with gradient caching (Gao et al. 2021), 0 for all at once. ``fragments``: the share of queries that are cut from
    documents, whose words no judged query may have; ``keywords``: the share of these that are scattered words instead
    of successive ones. ``contrastive``: weight of the cross-entropy; ``scale``: what the
    dot product is multiplied with before the softmax.
    """

    steps: Count
    batch: Count = 32
    negatives: Whole = 1
    negative_depth: Count = 30
    miner: str | None = None
    fragments: Share = 0.0
    keywords: Share = 0.0
    accumulate: Count = 1
    chunk: Whole = 0
    learning_rate: Positive = 1e-4
    warmup: Whole = 50
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    contrastive: NotNegative = 1.0
    scale: Positive = 1.0
    bf16: bool = False
    checkpoint_every: Count = 100
    evaluate_every: Whole = 250
    evaluation_documents: Count = 1500
    seed: Whole = 0


# The two sides have different defaults, which hold key by key.
_REGULARIZERS: dict[str, dict[str, Any]] = {
    "query_regularizer": {"penalty": "l1", "terms": 8},
    "document_regularizer": {"penalty": "flops", "terms": 150},
}


class RunFile(Section, frozen=True):
    """A whole run.

    ``objective``: "retrieval" trains ``[document]`` and ``[query]`` (without the latter, one encoder for both sides);
    "mlm" middle-trains ``[document]``; "imitation" trains ``[query]`` to give the vectors of another query encoder;
    "index" fits ``[query]`` to the document vectors of the ``index`` of each set.

    A run file may begin with ``extends = "other.toml"``: it then changes keys of that file. ``[[sets]]`` are
    replaced as a whole. A key of the file itself that would do nothing is an error, one of the other file is not.
    """

    name: str
    sets: list[SetSettings]
    training: TrainingSettings
    query_regularizer: RegularizerSettings
    document_regularizer: RegularizerSettings
    document: EncoderSettings | None = None
    query: EncoderSettings | None = None
    objective: Objective = "retrieval"
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    middle: MiddleSettings = field(default_factory=MiddleSettings)


def read_run_file(path: Path) -> RunFile:
    """Read and check a run file; its relative paths are relative to the file they stand in.

    Raises InputError, naming the key, for anything that is not as documented.
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


# Where a run file names paths.
PATHS = (
    ("document", "base"),
    ("query", "base"),
    ("teacher", "base"),
    ("teacher", "query_vectors"),
    ("teacher", "document_vectors"),
    ("training", "miner"),
)


def _resolve_paths(tables: dict[str, Any], here: Path) -> None:
    places = [(tables.get(table), key) for table, key in PATHS]
    sets = tables.get("sets")
    places += [(entry, key) for entry in sets for key in ("path", "index")] if isinstance(sets, list) else []
    for table, key in places:
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = os.path.normpath(here / Path(table[key]).expanduser())
