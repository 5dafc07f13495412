"""Opening a checkpoint: from a directory or a hub id to a model, a tokenizer and everything the export has to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..runtime.errors import CheckpointError
from .families import ENCODER_SIDES, Evidence, Family, QuerySide, check_family, detect_family, family_named
from .hub import Located, locate_checkpoint
from .layout import EncoderFiles, Side, has_both_sides, locate_encoder
from .tokenizing import load_tokenizer, special_token_ids
from .weights import load_masked_lm, weights_sha256

Role = Literal["query", "document", "both"]
# A tokenizer that states no maximum length reports a number of this size.
_NO_LENGTH = 1_000_000


@dataclass(frozen=True)
class OpenOptions:
    """How a checkpoint may be opened. ``family`` overrides detection, ``max_length`` (tokens) what the files state."""

    revision: str | None = None
    offline: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False
    family: str | None = None
    max_length: int | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One encoder of a checkpoint, loaded.

    ``model``: a transformers masked-language model, float32, evaluation mode. ``tokenizer``: its fast tokenizer.
    ``role``: the side it serves, "both" if one encoder serves both. ``dropped_terms``: term ids whose weight is zero.
    ``max_length`` counts special tokens; ``max_positions`` is the longest input the model can take. ``notes`` say what
    was unusual about the files.
    """

    located: Located
    directory: Path
    role: Role
    family: Family
    pooling: str
    activation: str
    query_side: QuerySide
    model: Any
    tokenizer: Any
    vocab_size: int
    max_length: int
    max_positions: int
    special_tokens: dict[str, int]
    dropped_terms: tuple[int, ...]
    licence: str
    weights_sha256: str
    notes: tuple[str, ...]

    @property
    def root(self) -> Path:
        """The directory the user named, or the snapshot of the hub repository."""
        return self.located.path


def open_checkpoint(spec: str, role: Side | None = None, options: OpenOptions | None = None) -> Checkpoint:
    """Open the encoder of ``spec`` (a directory or a hub id) for ``role``.

    Without a role the checkpoint must hold one encoder only, which then serves both sides.

    Raises CheckpointError whenever the encoder cannot be loaded exactly as it was trained.
    """
    options = options or OpenOptions()
    located = _locate(spec, options)
    files = locate_encoder(located.path, role)
    model, notes = load_masked_lm(
        files.directory, allow_pickle=options.allow_pickle, trust_remote_code=options.trust_remote_code
    )
    evidence = Evidence(
        name=located.name.rpartition("/")[2],
        model_type=model.config.model_type,
        pooling=files.pooling,
        activation=files.activation,
        query_side=files.query_side,
    )
    family = family_named(options.family) if options.family else detect_family(evidence)
    check_family(family, evidence)
    query_side = files.query_side or family.query_sides[0]
    found_role = _role(located.name, files, role, query_side)
    tokenizer = load_tokenizer(files, model, trust_remote_code=options.trust_remote_code)
    special_tokens = special_token_ids(tokenizer)
    max_positions = _max_positions(model)
    max_length = _max_length(options.max_length, files, tokenizer, family, max_positions)
    dropped = family.query_dropped if found_role == "query" else family.document_dropped
    return Checkpoint(
        located=located,
        directory=files.directory,
        role=found_role,
        family=family,
        pooling=files.pooling or family.pooling,
        activation=files.activation or family.activation,
        query_side=query_side,
        model=model,
        tokenizer=tokenizer,
        vocab_size=int(model.get_output_embeddings().weight.shape[0]),
        max_length=max_length,
        max_positions=max_positions,
        special_tokens=special_tokens,
        dropped_terms=_dropped_terms(dropped, special_tokens, tokenizer),
        licence=options.licence or _stated_licence(files),
        weights_sha256=weights_sha256(files.directory),
        notes=notes,
    )


def holds_pair(spec: str, options: OpenOptions | None = None) -> bool:
    """Whether ``spec`` holds a query and a document encoder. Raises CheckpointError if it cannot be found."""
    return has_both_sides(_locate(spec, options or OpenOptions()).path)


def _locate(spec: str, options: OpenOptions) -> Located:
    return locate_checkpoint(
        spec,
        revision=options.revision,
        offline=options.offline,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )


def _role(name: str, files: EncoderFiles, asked: Side | None, query_side: QuerySide) -> Role:
    """The role of the artifact to be. A named side is taken as named; no side means one encoder for both."""
    if query_side not in ENCODER_SIDES and asked != "document":
        raise CheckpointError(
            f"{name}: its query side is {query_side!r}, and this version exports encoders only; "
            "export its document encoder with --role document"
        )
    if asked is not None:
        return asked
    if query_side == "own encoder":
        raise CheckpointError(f"{name} is one side of a pair; say which with --role query or --role document")
    return "both" if files.shared else files.sides[0]


def _max_positions(model: Any) -> int:
    """Longest input in tokens. Position tables with a padding row (RoBERTa) start counting after it."""
    positions = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings - module.padding_idx - 1)
    return positions or _NO_LENGTH


def _max_length(asked: int | None, files: EncoderFiles, tokenizer: Any, family: Family, max_positions: int) -> int:
    stated = tokenizer.model_max_length if tokenizer.model_max_length < _NO_LENGTH else None
    length = asked or files.max_length or stated or family.max_length
    if asked is not None and not tokenizer.num_special_tokens_to_add() < asked <= max_positions:
        raise CheckpointError(
            f"--max-length {asked} is not possible: {files.directory} takes up to {max_positions} tokens, "
            "special ones included"
        )
    return min(int(length), max_positions)


def _dropped_terms(names: tuple[str, ...], special_tokens: dict[str, int], tokenizer: Any) -> tuple[int, ...]:
    if "all" in names:
        return tuple(sorted(set(tokenizer.all_special_ids)))
    return tuple(sorted({special_tokens[name] for name in names if name in special_tokens}))


def _stated_licence(files: EncoderFiles) -> str:
    """``license:`` in the front matter of the checkpoint's README.md, or "unknown"."""
    from huggingface_hub import ModelCard

    for directory in (files.directory, files.root):
        readme = directory / "README.md"
        if not readme.is_file():
            continue
        try:
            licence = ModelCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.get("license")
        except (ValueError, OSError, TypeError):
            continue
        if isinstance(licence, list):
            licence = ", ".join(map(str, licence))
        if licence:
            return str(licence)
    return "unknown"
