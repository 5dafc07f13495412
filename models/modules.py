"""sentence-transformers' layout: ``modules.json``, routers and the configuration files of modules, as one chain a side.

A *chain* is what the library runs for the texts of one side, in order: an encoder, SPLADE pooling, perhaps a table and
a normalization. Routers are resolved here, wherever they stand, as ``Router`` of sentence-transformers 6.2 resolves
them for text. Classes are matched by their last name, since their paths changed between versions of the library.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from ..runtime.errors import CheckpointError

Side = Literal["query", "document"]
SIDES: tuple[Side, Side] = ("query", "document")

ENCODERS = frozenset({"MLMTransformer", "Transformer"})
TABLES = frozenset({"IDF", "SparseStaticEmbedding"})
POOLING, NORMALIZE = "SpladePooling", "Normalize"
_ROUTERS = frozenset({"Router", "Asym"})
CONFIG, MODULES, ROUTER, MODEL = (
    "config.json",
    "modules.json",
    "router_config.json",
    "config_sentence_transformers.json",
)
# The first that is there and not empty counts.
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)


@dataclass(frozen=True)
class Module:
    """One module of a chain: the last name of its class, its directory, and the whole class as the file names it."""

    kind: str
    directory: Path
    type: str = ""


@dataclass(frozen=True)
class TransformerSettings:
    """What ``sentence_bert_config.json`` states; None and empty where it does not.

    ``max_seq_length`` replaces the tokenizer's ``model_max_length``; ``lengths`` are those of one side, and win.
    ``tokenizer_arguments`` go to the tokenizer when it is loaded. ``source`` is the file, for messages.
    """

    max_seq_length: int | None = None
    lengths: Mapping[Side, int] = field(default_factory=dict)
    do_lower_case: bool = False
    tokenizer_arguments: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None


@dataclass(frozen=True)
class ModelSettings:
    """What ``config_sentence_transformers.json`` states: the prompt of each side, how many of the largest weights are
    kept (None: all), and whether similarity is the cosine.
    """

    prompts: Mapping[Side, str] = field(default_factory=lambda: dict.fromkeys(SIDES, ""))
    max_active_dims: int | None = None
    cosine: bool = False


def read_chain(root: Path, side: Side) -> list[Module]:
    """Find the modules that the texts of a side pass, routers resolved.

    Parameters
    ----------
    root : Path
        The checkpoint's directory.
    side : {"query", "document"}
        The side.

    Returns
    -------
    list of Module
        The modules, in order.

    Raises
    ------
    CheckpointError
        If the files are damaged, or name a module that cannot be exported.
    """
    if (root / MODULES).is_file():
        entries = read_json(root / MODULES)
        if not isinstance(entries, list) or not all(
            isinstance(e, dict) and isinstance(e.get("type"), str) for e in entries
        ):
            raise CheckpointError(f"{root / MODULES} is not a list of modules; download the checkpoint again")
        chain = [
            Module(_last_name(e["type"]), inside(root, str(e.get("path", "")), root / MODULES), e["type"])
            for e in entries
        ]
    else:  # a router by itself, as sentence-transformers saves one below a module
        chain = [Module("Router", root)]
    resolved: list[Module] = []
    for module in chain:
        resolved += _route(root, module.directory, side) if module.kind in _ROUTERS else [module]
    return resolved


def _route(root: Path, at: Path, side: Side) -> list[Module]:
    """The modules of a router's route for the texts of ``side``."""
    path = at / ROUTER if (at / ROUTER).is_file() else at / CONFIG  # Asym kept it in config.json
    config = read_json(path)
    if not isinstance(config, dict):
        config = {}
    types, structure, parameters = (config.get(key) for key in ("types", "structure", "parameters"))
    routes = structure if isinstance(structure, dict) else {}
    if not isinstance(types, dict) or not routes or not all(isinstance(names, list) for names in routes.values()):
        raise CheckpointError(f"{path} does not say which modules are on which route; download the checkpoint again")
    name = _route_name(path, routes, parameters if isinstance(parameters, dict) else {}, side)
    chain = []
    for entry in routes[name]:
        if not isinstance(types.get(entry), str):
            raise CheckpointError(f"{path} gives no type for the module {entry!r}; download the checkpoint again")
        directory, kind = inside(at, str(entry), path), _last_name(types[entry])
        if kind in _ROUTERS:
            chain += _route(root, directory, side)
            continue
        if kind in ENCODERS and not (directory / CONFIG).is_file() and (at / CONFIG).is_file():
            directory = at  # the Efficient SPLADE repositories keep their own side at the root
        chain.append(Module(kind, directory, types[entry]))
    return chain


def _route_name(path: Path, routes: Mapping[str, Any], parameters: Mapping[str, Any], side: Side) -> str:
    """The route that text of a side takes, in the library's order of precedence."""
    stated = parameters.get("route_mappings")
    mappings = dict(_mapping(path, key, route) for key, route in (stated if isinstance(stated, dict) else {}).items())
    keys = ((side, "text"), (side, None), (None, "text"), (None, None))
    route: str = next((mappings[key] for key in keys if key in mappings), side if side in routes else "text")
    if route not in routes:
        raise CheckpointError(
            f"{path} has no route for {side} text, but {', '.join(sorted(routes))}; name the routes query and "
            "document, or add route_mappings"
        )
    return route


def _mapping(path: Path, key: str, route: object) -> tuple[Any, str]:
    try:
        pair = ast.literal_eval(key)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pair = None
    if not (isinstance(pair, tuple) and len(pair) == 2):
        raise CheckpointError(f"{path} has the route_mappings key {key!r}; keys are pairs such as ('query', 'text')")
    return pair, str(route)


def read_transformer_settings(directory: Path, kind: str) -> TransformerSettings:
    """Read what the configuration of an encoder module states about its texts.

    Parameters
    ----------
    directory : Path
        The module's directory.
    kind : str
        The class of the module.

    Returns
    -------
    TransformerSettings
        The settings.

    Raises
    ------
    CheckpointError
        For what cannot be applied; the message names file, key and way out.
    """
    path, config = transformer_config(directory)
    if path is None:
        if kind == "Transformer":
            raise CheckpointError(
                f"{directory} has no {TRANSFORMER_FILES[0]}, so its Transformer gives no logits; "
                'state "transformer_task": "fill-mask" there, or save the encoder again'
            )
        return TransformerSettings()
    task = config.get("transformer_task", "fill-mask" if kind == "MLMTransformer" else "feature-extraction")
    if task != "fill-mask":
        raise CheckpointError(
            f"{path} has transformer_task {task!r}, which gives no logits of a vocabulary; a SPLADE encoder has "
            '"fill-mask"'
        )
    processing = config.get("processing_kwargs") or {}
    lengths: dict[Side, int] = {}
    for side in SIDES:
        length = _length(path, f"{side}_length", config.get(f"{side}_length"))
        asked = _processing_length(path, processing)
        if asked or length:
            lengths[side] = asked or length or 0
    arguments = {
        **_object(path, "tokenizer_args", config.get("tokenizer_args")),
        **_object(path, "processor_kwargs", config.get("processor_kwargs")),
    }
    return TransformerSettings(
        max_seq_length=_length(path, "max_seq_length", config.get("max_seq_length")),
        lengths=lengths,
        do_lower_case=bool(config.get("do_lower_case", False)),
        tokenizer_arguments={key: value for key, value in arguments.items() if key != "trust_remote_code"},
        source=path,
    )


def transformer_config(directory: Path) -> tuple[Path | None, dict[str, Any]]:
    """Read the configuration file of an encoder module.

    Parameters
    ----------
    directory : Path
        The module's directory.

    Returns
    -------
    tuple of (Path or None) and dict
        The file and what it holds; (None, {}) where there is none.
    """
    for name in TRANSFORMER_FILES:
        path = directory / name
        if path.is_file():
            config = read_json(path)
            if not isinstance(config, dict):
                raise CheckpointError(f"{path} is not an object; download the checkpoint again")
            if config:
                return path, config
    return None, {}


def _processing_length(path: Path, processing: object) -> int | None:
    """``max_length`` of ``processing_kwargs``; what is common wins over what is for text."""
    if not isinstance(processing, dict):
        raise CheckpointError(f"{path} has processing_kwargs {processing!r}, which is not an object; remove it")
    found = None
    for group in ("text", "common"):
        for key, value in _object(path, f"processing_kwargs.{group}", processing.get(group)).items():
            if key == "max_length":
                found = _length(path, f"processing_kwargs.{group}.max_length", value) or found
            elif (key, value) not in _HARMLESS_PROCESSING:
                raise CheckpointError(
                    f"{path} has processing_kwargs.{group}.{key} {value!r}, which cannot be applied; "
                    "remove it and save the checkpoint again"
                )
    return found


_HARMLESS_PROCESSING = (
    ("padding", True),
    ("padding", "longest"),
    ("truncation", True),
    ("truncation", "longest_first"),
    ("truncation", "only_first"),
    ("return_tensors", "pt"),
    ("add_special_tokens", True),
)


def _object(path: Path, key: str, value: object) -> dict[str, Any]:
    """A value that is an object or absent. Raises CheckpointError for any other."""
    if not isinstance(value, dict | None):
        raise CheckpointError(f"{path} has {key} {value!r}, which is not an object; correct it")
    return value or {}


def _length(path: Path, key: str, value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{path} has {key} {value!r}, which is not a whole number of at least 1; correct it")
    return value


def read_model_settings(root: Path) -> ModelSettings:
    """Read what ``config_sentence_transformers.json`` states.

    ``encode_query`` and ``encode_document`` always find a prompt of their own name, if only an empty one. So
    ``default_prompt_name`` and prompts of other names never count.

    Parameters
    ----------
    root : Path
        The checkpoint's directory.

    Returns
    -------
    ModelSettings
        The settings; the library's defaults where there is no file.

    Raises
    ------
    CheckpointError
        If the file is damaged or states what cannot be applied.
    """
    path = root / MODEL
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not an object; download the checkpoint again")
    model_type = config.get("model_type", "SparseEncoder")
    if model_type != "SparseEncoder":
        raise CheckpointError(f"{path} says that this is a {model_type}; only a SparseEncoder can be exported")
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompts.get(s) or "", str) for s in SIDES):
        raise CheckpointError(f"{path} has prompts that are not text; correct it")
    similarity = config.get("similarity_fn_name")
    if similarity not in (None, "dot", "cosine"):
        raise CheckpointError(
            f"{path} has similarity_fn_name {similarity!r}, which an inverted index does not compute; "
            'use "dot" or "cosine" if the encoder was trained for it'
        )
    return ModelSettings(
        prompts={side: prompts.get(side) or "" for side in SIDES},
        max_active_dims=_length(path, "max_active_dims", config.get("max_active_dims")),
        cosine=similarity == "cosine",
    )


def inside(root: Path, relative: str, source: Path) -> Path:
    """Join a directory and a path that a checkpoint's own file names.

    ``./`` and trailing slashes are no escape. Neither are the links of a hub cache, which lead from a snapshot to the
    repository's ``blobs/``.

    Parameters
    ----------
    root : Path
        The checkpoint's directory.
    relative : str
        The path.
    source : Path
        The file that names it, for the message.

    Returns
    -------
    Path
        The path inside the checkpoint.

    Raises
    ------
    CheckpointError
        If it leads out of the checkpoint.
    """
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative or ":" in relative or "\0" in relative:
        raise CheckpointError(
            f"{source} names {relative!r}, which is outside the directory; do not use this checkpoint"
        )
    found = root.joinpath(*path.parts)
    if found.exists():
        whole = root.resolve()
        allowed = [whole, *(p.parent / "blobs" for p in whole.parents if p.name == "snapshots")]
        if not any(found.resolve().is_relative_to(place) for place in allowed):
            raise CheckpointError(
                f"{source} names {relative!r}, a link to outside the directory; do not use this checkpoint"
            )
    return found


def read_json(path: Path) -> Any:
    """Read a JSON file of a checkpoint.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    object
        What it holds.

    Raises
    ------
    CheckpointError
        If it cannot be read or is not JSON.
    """
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path} ({error}); download the checkpoint again") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        The object; {} where there is no file.

    Raises
    ------
    CheckpointError
        If it cannot be read or holds something else.
    """
    stated = read_json(path) if path.is_file() else {}
    if not isinstance(stated, dict):
        raise CheckpointError(f"{path} is not an object; download the checkpoint again")
    return stated


def _last_name(path: str) -> str:
    return path.rpartition(".")[2]


def listed(modules: Sequence[Module]) -> str:
    """List the classes of a chain, for messages.

    Parameters
    ----------
    modules : sequence of Module
        The chain.

    Returns
    -------
    str
        Their names.
    """
    return ", ".join(module.kind for module in modules) or "nothing"
