"""Which directory of a checkpoint holds which encoder, and what its configuration files say about vectors.

Five layouts are read; all give the same :class:`EncoderFiles`:

    plain                  config.json, weights, tokenizer at the root                      one encoder
    pair                   query/ and document/, each a checkpoint of its own               models/default
    look-up                plain, with idf.json (token -> weight) as its query side         OpenSearch doc-v1 to v3
    Efficient SPLADE hub   own side at the root, the other in {side}_0_MLMTransformer/      naver/efficient-splade-*
    sentence-transformers  modules.json, routers, module directories (:mod:`modules`)       sparse encoders
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from ..runtime.errors import CheckpointError
from .families import QuerySide
from .modules import (
    CONFIG,
    ENCODERS,
    MODULES,
    NORMALIZE,
    POOLING,
    ROUTER,
    SIDES,
    TABLES,
    ModelSettings,
    Module,
    Side,
    TransformerSettings,
    inside,
    listed,
    read_chain,
    read_model_settings,
    read_object,
    read_transformer_settings,
)

__all__ = ["SIDES", "EncoderFiles", "Side", "has_both_sides", "locate_encoder", "stated_role", "two_sides"]

# SpladePooling's activation_function -> our activation; it names what happens before a log1p.
_ACTIVATIONS = {"relu": "log1p_relu", "log1p_relu": "log1p_log1p_relu"}
_POOLINGS = ("max", "sum")
_IDF, _TENSORS, _ADAPTER = "idf.json", "model.safetensors", "adapter_config.json"
# What our training writes beside an encoder.
TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class EncoderFiles:
    """One side of a checkpoint.

    ``directory`` holds its ``config.json`` and weights, ``root`` is the whole checkpoint. ``library_root`` is what
    sentence-transformers would open for this side. ``pooling``, ``activation`` and ``query_side`` are None where no
    file states them. ``shared`` is true where one encoder is stated, or has to be taken, to serve both sides.
    ``table`` is the file of a query side without an encoder: token -> weight in JSON, or one tensor in safetensors;
    ``directory`` is then where its tokenizer may be. ``normalized``: the chain ends with an L2 normalization.
    ``modules`` is the chain of sentence-transformers, empty in other layouts.
    """

    root: Path
    directory: Path
    library_root: Path
    shared: bool
    pooling: str | None = None
    activation: str | None = None
    query_side: QuerySide | None = None
    table: Path | None = None
    normalized: bool = False
    transformer: TransformerSettings = field(default_factory=TransformerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    modules: tuple[Module, ...] = ()


def has_both_sides(root: Path) -> bool:
    """Tell whether a checkpoint's files state two sides that differ, so that one has to be chosen.

    Parameters
    ----------
    root : Path
        The checkpoint's directory.

    Returns
    -------
    bool
        Whether they do.
    """
    found = [_read(root, side) for side in SIDES]
    return all(found) and not any(files.shared for files in found if files)


def stated_role(directory: Path) -> Side | None:
    """Read from ``training.json`` which side our own training made an encoder for.

    Parameters
    ----------
    directory : Path
        The encoder's directory.

    Returns
    -------
    {"query", "document"} or None
        The side, None where it is not stated.
    """
    try:
        role = msgspec.json.decode((directory / TRAINING_FILE).read_bytes(), type=dict).get("role")
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return role if role in SIDES else None


def locate_encoder(root: Path, side: Side | None) -> EncoderFiles:
    """Find the files of an encoder.

    Parameters
    ----------
    root : Path
        The checkpoint's directory.
    side : {"query", "document"} or None
        The side; None for the only encoder there is.

    Returns
    -------
    EncoderFiles
        The files.

    Raises
    ------
    CheckpointError
        If there is no such encoder, or the side has to be named.
    """
    if not root.is_dir():
        raise CheckpointError(f"{root} is not a directory; name a checkpoint directory or a hub id")
    if side is not None:
        files = _read(root, side)
        if files is None:
            raise _no_encoder(root, side)
        return files
    found = [files for s in SIDES if (files := _read(root, s)) is not None]
    if not found:
        raise _no_encoder(root, None)
    if len(found) == 2 and not found[0].shared:
        raise two_sides(root)
    return found[0]


def two_sides(root: Path) -> CheckpointError:
    """Make the error of a checkpoint of which a side has to be chosen.

    Parameters
    ----------
    root : Path
        The checkpoint's directory.

    Returns
    -------
    CheckpointError
        The error, to be raised.
    """
    return CheckpointError(f"{root} holds a query and a document side; choose one with --role, or export the pair")


def _no_encoder(root: Path, side: Side | None) -> CheckpointError:
    what = f"no {side} encoder" if side else "no encoder"
    return CheckpointError(f"{root} has {what}: no {CONFIG} with weights was found in a layout that is known")


def _read(root: Path, side: Side) -> EncoderFiles | None:
    """The encoder of one side, or None if this checkpoint has none for it."""
    if (root / MODULES).is_file() or (root / ROUTER).is_file():
        return _read_modules(root, side)
    return _read_pair(root, side) or _read_hub(root, side)


def _read_pair(root: Path, side: Side) -> EncoderFiles | None:
    if not all(_is_encoder(root / s) for s in SIDES):
        return None
    inner, query = _read(root / side, side), _read(root / "query", "query")
    if inner is None:
        return None
    query_side: QuerySide = (query.query_side if query and query.table else None) or "own encoder"
    return replace(inner, root=root, shared=False, query_side=query_side)


def _read_hub(root: Path, side: Side) -> EncoderFiles | None:
    """A plain checkpoint, or the Efficient SPLADE hub layout without a router file."""
    others = [s for s in SIDES if (root / f"{s}_0_MLMTransformer" / CONFIG).is_file()]
    if others:
        nested = root / f"{side}_0_MLMTransformer"
        directory = nested if side in others else root
        if not (directory / CONFIG).is_file():
            return None
        return EncoderFiles(root, directory, directory, shared=False, query_side="own encoder")
    if not _is_encoder(root):
        return None
    if (root / _IDF).is_file():
        table = root / _IDF if side == "query" else None
        return EncoderFiles(root, root, root, shared=False, query_side="look-up", table=table)
    return EncoderFiles(root, root, root, shared=True)


def _is_encoder(directory: Path) -> bool:
    """Whether a plain checkpoint may be here; an adapter that was saved without its base has no ``config.json``."""
    return any((directory / name).is_file() for name in (CONFIG, _ADAPTER, MODULES))


def _read_modules(root: Path, side: Side) -> EncoderFiles:
    """sentence-transformers' layout: what the chain of a side states, and how it differs from the other side's."""
    chain = read_chain(root, side)
    try:
        chains = {s: chain if s == side else read_chain(root, s) for s in SIDES}
    except CheckpointError:  # the other side has no route; this one can be exported
        chains = dict.fromkeys(SIDES, chain)
    parts = _parts(root, chain)
    query_side = _query_side(root, chains)
    settings = read_model_settings(root)
    if parts.encoder is None or (side == "query" and query_side in ("look-up", "bag of words")):
        if side == "document" or parts.table is None:
            raise CheckpointError(f"{root} has no encoder for {side}s, but {listed(chain)}; that is not supported")
        directory = parts.table.directory
        return EncoderFiles(
            root, directory, root, shared=False, query_side=query_side, table=_table_file(root, directory),
            normalized=parts.normalized, model=settings, modules=tuple(chain),
        )  # fmt: skip
    assert parts.pooling is not None
    strategy, activation = parts.pooling
    return EncoderFiles(
        root,
        parts.encoder.directory,
        root,
        shared=query_side == "same encoder",
        pooling=strategy,
        activation=activation,
        query_side=query_side,
        normalized=parts.normalized,
        transformer=read_transformer_settings(parts.encoder.directory, parts.encoder.kind),
        model=settings,
        modules=tuple(chain),
    )


@dataclass(frozen=True)
class _Parts:
    """A chain taken apart; ``pooling``: strategy and activation. Two sides with equal parts are one encoder."""

    encoder: Module | None = None
    pooling: tuple[str, str] | None = None
    table: Module | None = None
    normalized: bool = False


def _parts(root: Path, chain: Sequence[Module]) -> _Parts:
    """An encoder and SPLADE pooling, a table, or the one behind the other; then normalizations. Else an error."""
    kinds = [module.kind for module in chain]
    end = len(kinds)
    while end and kinds[end - 1] == NORMALIZE:
        end -= 1
        _check_normalize(chain[end].directory)
    rest = list(chain[:end])
    encoder = rest.pop(0) if rest and rest[0].kind in ENCODERS else None
    pooling = rest.pop(0) if encoder and rest and rest[0].kind == POOLING else None
    table = rest.pop(0) if rest and rest[0].kind in TABLES else None
    if rest or (encoder is None) != (pooling is None) or (encoder is None and table is None):
        raise CheckpointError(
            f"{root} is made of {listed(chain)}; a SPLADE encoder is Transformer, {POOLING}, and a query side may be "
            "SparseStaticEmbedding; each may be followed by Normalize"
        )
    return _Parts(encoder, _read_pooling(pooling.directory) if pooling else None, table, end < len(kinds))


def _read_pooling(directory: Path) -> tuple[str, str]:
    path = directory / CONFIG
    stated = read_object(path)
    activation, strategy = stated.get("activation_function", "relu"), stated.get("pooling_strategy", "max")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise CheckpointError(f"{path} has activation_function {activation!r}; known: {', '.join(_ACTIVATIONS)}")
    if strategy not in _POOLINGS:
        raise CheckpointError(f"{path} has pooling_strategy {strategy!r}; known: {', '.join(_POOLINGS)}")
    return strategy, _ACTIVATIONS[activation]


def _check_normalize(directory: Path) -> None:
    config = read_object(directory / CONFIG)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise CheckpointError(
                f"{directory / CONFIG} has {key} {config[key]!r}; only a text's vector can be normalized: remove it"
            )


def _query_side(root: Path, chains: dict[Side, list[Module]]) -> QuerySide:
    query, document = (_parts(root, chains[side]) for side in SIDES)
    if document.table is not None:
        raise CheckpointError(f"{root} has a table on its document side ({listed(chains['document'])}), unsupported")
    if query.table is None:
        return "same encoder" if query == document else "own encoder"
    binary = _is_all_ones(query.table.directory)
    if query.encoder is None:
        return "bag of words" if binary else "look-up"
    if not binary:
        raise CheckpointError(f"{query.table.directory} weighs a query encoder by a table, which is not supported")
    return "masked encoder"


def _table_file(root: Path, table: Path) -> Path:
    """Where a look-up module keeps its weights: its own tensor, or a JSON file that its configuration names."""
    named = read_object(table / CONFIG).get("path")
    if not (table / _TENSORS).is_file() and isinstance(named, str) and named.endswith(".json"):
        for directory in (table, root):
            if (path := inside(directory, named, table / CONFIG)).is_file():
                return path
    return table / _TENSORS


def _is_all_ones(table: Path) -> bool:
    """Whether a stored look-up table gives every token the weight 1: a binary bag of words."""
    if not (table / _TENSORS).is_file():
        return False
    from .look_up import read_tensor

    return bool((read_tensor(table / _TENSORS) == 1).all())
