"""Which directory of a checkpoint holds which encoder, and what its configuration files say about pooling.

Five layouts are read; all give the same :class:`EncoderFiles`:

    plain                  config.json, weights, tokenizer at the root                      one encoder
    pair                   query/ and document/, each a plain checkpoint                    models/default
    look-up                plain, with idf.json (token -> weight) as its query side         OpenSearch doc-v1 to v3
    Efficient SPLADE hub   own side at the root, the other in {side}_0_MLMTransformer/      naver/efficient-splade-*
    sentence-transformers  modules.json, *_SpladePooling/config.json, router_config.json    sparse encoders of version 5

Classes are matched by their last name, since their paths changed between versions of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..runtime.errors import CheckpointError
from ..runtime.files import safe_join
from .families import QuerySide

Side = Literal["query", "document"]
SIDES: tuple[Side, Side] = ("query", "document")

_ENCODERS = frozenset({"MLMTransformer", "Transformer"})
_LOOK_UPS = frozenset({"IDF", "SparseStaticEmbedding"})
_POOLING = "SpladePooling"
_ROUTERS = frozenset({"Router", "Asym"})
# SpladePooling's activation_function -> our activation; it names what happens before a log1p.
_ACTIVATIONS = {"relu": "log1p_relu", "log1p_relu": "log1p_log1p_relu"}
_CONFIG, _ROUTER, _MODULES, _IDF = "config.json", "router_config.json", "modules.json", "idf.json"
_TENSORS = "model.safetensors"
# What our training writes beside an encoder.
TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class EncoderFiles:
    """One side of a checkpoint.

    ``directory`` holds its ``config.json`` and weights, ``root`` is the whole checkpoint. ``pooling``, ``activation``,
    ``query_side`` and ``max_length`` (tokens) are None where no file states them. ``shared`` is true where one encoder
    is stated, or has to be taken, to serve both sides. ``table`` is the file of a query side without an encoder:
    token -> weight in JSON, or one tensor in safetensors; ``directory`` is then where its tokenizer may be.
    """

    root: Path
    directory: Path
    shared: bool
    pooling: str | None = None
    activation: str | None = None
    query_side: QuerySide | None = None
    max_length: int | None = None
    table: Path | None = None


def has_both_sides(root: Path) -> bool:
    """Whether the files of a checkpoint state two sides that differ, so that one has to be chosen."""
    found = [_read(root, side) for side in SIDES]
    return all(found) and not any(files.shared for files in found if files)


def stated_role(directory: Path) -> Side | None:
    """The side that our own training made the only encoder of a directory for, if it says so in ``training.json``."""
    try:
        role = msgspec.json.decode((directory / TRAINING_FILE).read_bytes(), type=dict).get("role")
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return role if role in SIDES else None


def locate_encoder(root: Path, side: Side | None) -> EncoderFiles:
    """The files of the encoder for ``side`` (None: of the only encoder there is).

    Raises CheckpointError if there is no such encoder, or if the side has to be named.
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
    """The error of a checkpoint of which a side has to be chosen."""
    return CheckpointError(f"{root} holds a query and a document side; choose one with --role, or export the pair")


def _no_encoder(root: Path, side: Side | None) -> CheckpointError:
    what = f"no {side} encoder" if side else "no encoder"
    return CheckpointError(f"{root} has {what}: no {_CONFIG} with weights was found in a layout that is known")


def _read(root: Path, side: Side) -> EncoderFiles | None:
    """The encoder of one side, or None if this checkpoint has none for it."""
    if (root / _ROUTER).is_file():
        return _read_router(root, root, side)
    if (root / _MODULES).is_file():
        return _read_modules(root, side)
    return _read_pair(root, side) or _read_hub(root, side)


def _read_pair(root: Path, side: Side) -> EncoderFiles | None:
    if not all((root / s / _CONFIG).is_file() for s in SIDES):
        return None
    inner, query = _read(root / side, side), _read(root / "query", "query")
    if inner is None:
        return None
    query_side: QuerySide = (query.query_side if query and query.table else None) or "own encoder"
    return replace(inner, root=root, shared=False, query_side=query_side)


def _read_hub(root: Path, side: Side) -> EncoderFiles | None:
    """A plain checkpoint, or the Efficient SPLADE hub layout without a router file."""
    others = [s for s in SIDES if (root / f"{s}_0_MLMTransformer" / _CONFIG).is_file()]
    if others:
        nested = root / f"{side}_0_MLMTransformer"
        directory = nested if side in others else root
        if not (directory / _CONFIG).is_file():
            return None
        return EncoderFiles(root, directory, shared=False, query_side="own encoder")
    if not any((root / name).is_file() for name in (_CONFIG, "adapter_config.json")):
        return None
    if (root / _IDF).is_file():
        table = root / _IDF if side == "query" else None
        return EncoderFiles(root, root, shared=False, query_side="look-up", table=table)
    return EncoderFiles(root, root, shared=True)


def _read_modules(root: Path, side: Side) -> EncoderFiles | None:
    """sentence-transformers without a router: a list of modules, applied in turn to both sides."""
    modules = _read_json(root / _MODULES)
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise CheckpointError(f"{root / _MODULES} is not a list of modules; download the checkpoint again")
    kinds = [(_last_name(m.get("type")), _inside(root, str(m.get("path", "")))) for m in modules]
    routers = [path for kind, path in kinds if kind in _ROUTERS]
    if routers and len(kinds) == 1:
        return _read_router(root, routers[0], side)
    return _from_modules(root, kinds, "same encoder")


def _read_router(root: Path, at: Path, side: Side) -> EncoderFiles | None:
    """sentence-transformers' Router: one list of modules a side, in directories named ``{side}_{place}_{class}``."""
    config = _read_json(at / _ROUTER)
    types = config.get("types") if isinstance(config, dict) else None
    structure = config.get("structure") if isinstance(config, dict) else None
    if not isinstance(types, dict) or not isinstance(structure, dict) or not set(structure) >= set(SIDES):
        raise CheckpointError(f"{at / _ROUTER} has no routes named query and document; this layout is not known")
    routes = {s: [(_last_name(types.get(name)), str(name)) for name in structure[s]] for s in SIDES}
    tables = [_inside(at, name) for kind, name in routes["query"] if kind in _LOOK_UPS]
    encoders = [{name for kind, name in routes[s] if kind in _ENCODERS} for s in SIDES]
    if len(tables) > 1 or any(kind in _LOOK_UPS for kind, _ in routes["document"]):
        raise CheckpointError(f"{at / _ROUTER} has a look-up where none is known; a query side may have one")
    query_side: QuerySide = "same encoder" if encoders[0] == encoders[1] else "own encoder"
    if tables:
        binary = _is_all_ones(tables[0])
        query_side = "masked encoder" if encoders[0] else "bag of words" if binary else "look-up"
        if query_side == "masked encoder" and not binary:
            raise CheckpointError(f"{at / _ROUTER} weighs a query encoder by a table, which is not supported")
    if side == "query" and tables and not encoders[0]:
        if len(routes["query"]) != 1:
            raise CheckpointError(f"{at / _ROUTER} has more than a look-up on its query side, which is not supported")
        return EncoderFiles(root, tables[0], shared=False, query_side=query_side, table=_table_file(root, tables[0]))
    # The encoder whose named directory is absent is the one at the root.
    paths = []
    for kind, name in routes[side]:
        path = _inside(at, name)
        if kind not in _LOOK_UPS:
            paths.append((kind, path if kind not in _ENCODERS or (path / _CONFIG).is_file() else at))
    return _from_modules(root, paths, query_side)


def _from_modules(root: Path, modules: Sequence[tuple[str, Path]], query_side: QuerySide) -> EncoderFiles:
    """EncoderFiles of a list of (class name, directory) that must be an encoder and then SPLADE pooling."""
    found = [kind for kind, _ in modules]
    if len(found) != 2 or found[0] not in _ENCODERS or found[1] != _POOLING:
        raise CheckpointError(
            f"{root} is made of {', '.join(found) or 'nothing'}; a SPLADE encoder is MLMTransformer, {_POOLING}"
        )
    directory, pooling_directory = modules[0][1], modules[1][1]
    pooling = _read_json(pooling_directory / _CONFIG) if (pooling_directory / _CONFIG).is_file() else {}
    activation = pooling.get("activation_function", "relu")
    if activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"{pooling_directory / _CONFIG} has activation_function {activation!r}; known: {', '.join(_ACTIVATIONS)}"
        )
    return EncoderFiles(
        root,
        directory,
        shared=query_side == "same encoder",
        pooling=str(pooling.get("pooling_strategy", "max")),
        activation=_ACTIVATIONS[activation],
        query_side=query_side,
        max_length=_stated_length(directory),
    )


def _table_file(root: Path, table: Path) -> Path:
    """Where a look-up module keeps its weights: its own tensor, or a JSON file that its configuration names."""
    config = _read_json(table / _CONFIG) if (table / _CONFIG).is_file() else {}
    named = config.get("path") if isinstance(config, dict) else None
    if not (table / _TENSORS).is_file() and isinstance(named, str) and named.endswith(".json"):
        for directory in (table, root):
            if (path := _inside(directory, named)).is_file():
                return path
    return table / _TENSORS


def _stated_length(directory: Path) -> int | None:
    path = directory / "sentence_bert_config.json"
    length = _read_json(path).get("max_seq_length") if path.is_file() else None
    return length if isinstance(length, int) else None


def _is_all_ones(table: Path) -> bool:
    """Whether a stored look-up table gives every token the weight 1: a binary bag of words."""
    if not (table / _TENSORS).is_file():
        return False
    from .look_up import read_tensor

    return bool((read_tensor(table / _TENSORS) == 1).all())


def _last_name(path: object) -> str:
    return str(path).rpartition(".")[2]


def _inside(root: Path, relative: str) -> Path:
    """A directory named by a checkpoint's own files; it must not lead out of the checkpoint."""
    return safe_join(root, relative) if relative else root


def _read_json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path} ({error}); download the checkpoint again") from None
