"""The families of SPLADE-like encoders, as data: how each turns masked-language-model logits into a sparse vector.

A family says how weights are pooled over positions, which activation they pass, what its query side is, and which
special tokens lose their weight. Nothing else in this package knows a family by its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, get_args

from ..runtime.errors import CheckpointError

Pooling = Literal["max", "sum"]
# log1p_relu: log(1 + relu(x)).  log1p_log1p_relu: log(1 + log(1 + relu(x))), arXiv:2504.14839.
Activation = Literal["log1p_relu", "log1p_log1p_relu", "relu"]
QuerySide = Literal[
    "same encoder",  # queries and documents share one encoder
    "own encoder",  # a second, usually smaller, encoder
    "bag of words",  # one per token of the query, no encoder
    "look-up",  # a stored weight per token of the query (idf.json), no encoder
    "masked encoder",  # encoder output kept only at the query's own tokens
]
# The query sides that need no encoder: a text's own tokens, each with a weight that was fixed before.
TABLE_SIDES: frozenset[QuerySide] = frozenset({"bag of words", "look-up"})
# Those that differ from the document side although the checkpoint may hold one encoder only.
DERIVED_SIDES: frozenset[QuerySide] = TABLE_SIDES | {"masked encoder"}
# Poolings p with p(f(x)) = f(p(x)) for every non-decreasing f: the export pools before bias and activation.
COMMUTING_POOLINGS: frozenset[Pooling] = frozenset({"max"})
# Attributes of a transformers tokenizer that name a special token.
SPECIAL_TOKENS = ("bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token")


@dataclass(frozen=True)
class Family:
    """One row of the table.

    ``model_types`` are ``config.json`` model types (empty: any). ``hub_ids`` are globs over hub ids, for families that
    no configuration file tells apart; the name of a directory never counts. ``query_sides`` lists what the query side
    may be, the usual one first. ``query_dropped`` and ``document_dropped`` name special tokens (attributes of a
    tokenizer such as ``cls_token``, or ``all``) whose weight is set to zero where the family was asked for or a hub id
    tells it. ``look_up`` is the file of a checkpoint that holds the query side's table, where its layout does not say.
    ``max_length`` counts special tokens and is used where the checkpoint states none; None: as many as the model has
    positions. ``checked`` is false where no real checkpoint could be compared when the row was written. ``origin`` is
    the file a user described it in.
    """

    name: str
    members: str
    model_types: frozenset[str]
    pooling: Pooling
    activation: Activation
    query_sides: tuple[QuerySide, ...]
    hub_ids: tuple[str, ...] = ()
    query_dropped: tuple[str, ...] = ()
    document_dropped: tuple[str, ...] = ()
    look_up: str | None = None
    max_length: int | None = None
    paper: str = ""
    checked: bool = False
    note: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Evidence:
    """What a checkpoint's files say about its family; None where they say nothing. ``hub_id`` is "" for a directory."""

    name: str
    model_type: str
    pooling: str | None = None
    activation: str | None = None
    query_side: QuerySide | None = None
    hub_id: str = ""


_BERT = frozenset({"bert"})
_BERTS = frozenset({"bert", "distilbert"})
_UNSEEN = "Written from the paper and published code; no checkpoint of it could be compared."

# The first row that fits is taken, so the narrow ones come first.
FAMILIES: tuple[Family, ...] = (
    Family(
        name="efficient-splade",
        members="naver/efficient-splade-V-large-*, naver/efficient-splade-VI-BT-large-*, models/default",
        model_types=_BERTS,
        pooling="max",
        activation="log1p_relu",
        query_sides=("own encoder",),
        hub_ids=("naver/efficient-splade-*",),
        paper="Lassance & Clinchant, SIGIR 2022, arXiv:2207.03834",
        checked=True,
        note="Checked on models/default, which has the same shape; the naver weights themselves could not be fetched. "
        "VI-BT-large-query states no maximum length, so texts are cut at its 512 positions; both sides were trained at "
        "256: pass --max-length 256 for that.",
    ),
    Family(
        name="splade-v3-lexical",
        members="naver/splade-v3-lexical",
        model_types=_BERT,
        pooling="max",
        activation="log1p_relu",
        query_sides=("masked encoder",),
        hub_ids=("naver/splade-v3-lexical*",),
        query_dropped=("cls_token", "sep_token", "pad_token"),
        paper="Lassance et al. 2024, arXiv:2403.06789",
        note=_UNSEEN + " Special tokens are left out of the mask, as naver's code leaves them out of a bag of words.",
    ),
    Family(
        name="splade-v3-doc",
        members="naver/splade-v3-doc",
        model_types=_BERT,
        pooling="max",
        activation="log1p_relu",
        query_sides=("bag of words",),
        hub_ids=("naver/splade-v3-doc*",),
        query_dropped=("cls_token", "sep_token", "pad_token"),
        paper="Lassance et al. 2024, arXiv:2403.06789",
        note=_UNSEEN,
    ),
    Family(
        name="opensearch-doc-v3",
        members="opensearch-project/opensearch-neural-sparse-encoding-doc-v3-*",
        model_types=_BERTS,
        pooling="max",
        activation="log1p_log1p_relu",
        query_sides=("look-up",),
        hub_ids=("opensearch-project/opensearch-neural-sparse-encoding-doc-v3-*",),
        query_dropped=("all",),
        document_dropped=("all",),
        paper="Geng et al. 2025, arXiv:2504.14839",
        note=_UNSEEN + " doc-v3-gte needs custom code and is refused unless it is trusted.",
    ),
    Family(
        name="opensearch-doc",
        members="opensearch-project/opensearch-neural-sparse-encoding-doc-v1, -doc-v2-*",
        model_types=_BERTS,
        pooling="max",
        activation="log1p_relu",
        query_sides=("look-up",),
        hub_ids=("opensearch-project/opensearch-neural-sparse-encoding-doc-v[12]*",),
        query_dropped=("all",),
        document_dropped=("all",),
        paper="Geng et al. 2024, arXiv:2411.04403",
        note=_UNSEEN,
    ),
    Family(
        name="opensearch",
        members="opensearch-project/opensearch-neural-sparse-encoding-v1, -v2-distill",
        model_types=_BERTS,
        pooling="max",
        activation="log1p_relu",
        query_sides=("same encoder",),
        hub_ids=("opensearch-project/opensearch-neural-sparse-encoding-v*",),
        query_dropped=("all",),
        document_dropped=("all",),
        paper="Geng et al. 2024, arXiv:2411.04403",
        note=_UNSEEN + " Nothing but its name tells it from splade, which keeps the special tokens.",
    ),
    Family(
        name="splade-v1",
        members="SPLADE of 2021",
        model_types=_BERTS,
        pooling="sum",
        activation="log1p_relu",
        query_sides=("same encoder",),
        paper="Formal et al., SIGIR 2021, arXiv:2107.05720",
        note=_UNSEEN + " A plain checkpoint of it looks like splade, as which it is read: pass --family splade-v1.",
    ),
    Family(
        name="splade",
        members="naver/splade-cocondenser-*, naver/splade-v3, naver/splade-v3-distilbert, prithivida/Splade_PP_en_*",
        model_types=_BERTS,
        pooling="max",
        activation="log1p_relu",
        query_sides=("same encoder",),
        paper="Formal et al. 2021, arXiv:2109.10086; Formal et al., SIGIR 2022, arXiv:2205.04733",
        note=_UNSEEN,
    ),
    Family(
        name="granite-sparse",
        members="ibm-granite/granite-embedding-30m-sparse",
        model_types=frozenset({"roberta"}),
        pooling="max",
        activation="log1p_relu",
        query_sides=("same encoder",),
        paper="Granite Embedding Models, arXiv:2502.20204",
        note=_UNSEEN + " Pad token id 1, vocabulary of 50,265.",
    ),
    Family(
        name="modernbert-splade",
        members="encoders on ModernBERT",
        model_types=frozenset({"modernbert"}),
        pooling="max",
        activation="log1p_relu",
        query_sides=("same encoder", "own encoder", "look-up", "bag of words"),
        paper="Warner et al. 2024, arXiv:2412.13663",
        note=_UNSEEN + " Takes inputs up to 8,192 tokens; the length it was trained at is in its own files.",
    ),
    Family(
        name="splade-other",
        members="any other masked-language model",
        model_types=frozenset(),
        pooling="max",
        activation="log1p_relu",
        query_sides=get_args(QuerySide),
        note="Pooling and activation are as the checkpoint states, else those that sentence-transformers takes.",
    ),
)
FALLBACK = FAMILIES[-1]
# What sentence-transformers makes of a masked-language model that states nothing.
DEFAULT_POOLING: Pooling = "max"
DEFAULT_ACTIVATION: Activation = "log1p_relu"
_PLAIN = next(family for family in FAMILIES if family.name == "splade")


def family_named(name: str) -> Family:
    """Find a family by its name.

    Parameters
    ----------
    name : str
        The name.

    Returns
    -------
    Family
        The family.

    Raises
    ------
    CheckpointError
        If there is none; the message lists all names.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise CheckpointError(f"no family {name!r}; the families are: {', '.join(f.name for f in FAMILIES)}")


def published_family(evidence: Evidence) -> Family | None:
    """Find the family that a hub id is known to belong to.

    Parameters
    ----------
    evidence : Evidence
        What the checkpoint's files say.

    Returns
    -------
    Family or None
        The family, None where no hub id is known or the files contradict it.
    """
    return next(
        (f for f in FAMILIES if _fits(f, evidence) and any(fnmatchcase(evidence.hub_id, glob) for glob in f.hub_ids)),
        None,
    )


def detect_family(evidence: Evidence) -> Family:
    """Find the family that fits what a checkpoint's files say.

    Families with ``hub_ids`` fit only when a stated query side or activation sets them apart from a plain encoder.

    Parameters
    ----------
    evidence : Evidence
        What the files say.

    Returns
    -------
    Family
        The family; the fallback if no other fits.

    Raises
    ------
    CheckpointError
        If only ``--family`` could tell.
    """
    if evidence.query_side not in TABLE_SIDES:
        # A document side by itself tells nothing that a plain checkpoint does not.
        evidence = replace(
            evidence,
            pooling=evidence.pooling or DEFAULT_POOLING,
            activation=evidence.activation or DEFAULT_ACTIVATION,
        )
    rows = [
        f for f in FAMILIES if f is not FALLBACK and _fits(f, evidence) and (not f.hub_ids or _is_distinct(f, evidence))
    ]
    if len({(f.pooling, f.activation) for f in rows}) > 1:
        choices = " or ".join(f"--family {f.name}" for f in rows)
        raise CheckpointError(f"{evidence.name}: its files do not tell how it is activated; choose {choices}")
    return rows[0] if rows else FALLBACK


def check_family(family: Family, evidence: Evidence) -> None:
    """Check that a family does not contradict what a checkpoint states.

    Parameters
    ----------
    family : Family
        The family.
    evidence : Evidence
        What the checkpoint's files say.

    Raises
    ------
    CheckpointError
        If it does.
    """
    mend = f"change {family.origin}" if family.origin else "leave out --family"
    for what, found, expected in (
        ("pooling", evidence.pooling, (family.pooling,)),
        ("activation", evidence.activation, (family.activation,)),
        ("query side", evidence.query_side, family.query_sides),
    ):
        if family is not FALLBACK and found is not None and found not in expected:
            raise CheckpointError(
                f"{evidence.name} states {what} {found!r}, the family {family.name} has "
                f"{' or '.join(map(repr, expected))}; {mend}"
            )
    if family.model_types and evidence.model_type not in family.model_types:
        raise CheckpointError(
            f"{evidence.name} is a {evidence.model_type!r} model; the family {family.name} is made of "
            f"{', '.join(sorted(family.model_types))}; {mend}, or use --family {FALLBACK.name}"
        )


def _fits(family: Family, evidence: Evidence) -> bool:
    return (
        (not family.model_types or evidence.model_type in family.model_types)
        and evidence.pooling in (None, family.pooling)
        and evidence.activation in (None, family.activation)
        and (evidence.query_side is None or evidence.query_side in family.query_sides)
    )


def _is_distinct(family: Family, evidence: Evidence) -> bool:
    """Whether the stated configuration itself picks this row out from the plain encoders."""
    return (
        (evidence.query_side is not None and evidence.query_side not in _PLAIN.query_sides)
        or (evidence.pooling is not None and evidence.pooling != _PLAIN.pooling)
        or (evidence.activation is not None and evidence.activation != _PLAIN.activation)
    )
