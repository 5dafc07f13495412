"""Opening a checkpoint: from a directory or a hub id to a model, a tokenizer and everything the export has to know."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..runtime.errors import CheckpointError, InputError
from ..runtime.idf import LARGEST_POWER, check_power
from .custom_family import family_from
from .families import DERIVED_SIDES, TABLE_SIDES, Evidence, Family, QuerySide, check_family, detect_family
from .head import check_lengths, embedding_rows, logits_width
from .head import max_positions as longest_input
from .hub import Located, locate_checkpoint
from .layout import EncoderFiles, Side, has_both_sides, locate_encoder, stated_role, two_sides
from .look_up import Table, read_table
from .options import OpenOptions
from .padding import PADDING_NOTE, depends_on_padding
from .tokenizing import load_tokenizer, special_token_ids
from .weights import load_config, load_masked_lm, weights_sha256

Role = Literal["query", "document", "both"]
# A tokenizer that states no maximum length reports a number of this size.
_NO_LENGTH = 1_000_000


@dataclass(frozen=True)
class Checkpoint:
    """One side of a checkpoint, loaded.

    ``model``: a transformers masked-language model, float32, evaluation mode; None where a text's weights come from
    ``table``, float32 ``[vocab_size]``. ``tokenizer``: its fast tokenizer. ``role``: the side it serves, "both" if one
    encoder serves both. ``own_terms``: whether only the terms of the text itself keep their weight (a mask by bag of
    words; always so with a table). ``dropped_terms``: term ids whose weight is zero. ``max_length`` counts special
    tokens; ``max_positions`` is the longest input the model can take. ``query_idf`` is what a search does to the query
    weights (see :func:`splade_edge.runtime.idf.idf_factors`): the key of that name in ``config.json``, 0 without it and
    for documents. ``notes`` say what was unusual about the files.
    """

    located: Located
    directory: Path
    role: Role
    family: Family
    pooling: str
    activation: str
    query_side: QuerySide
    model: Any
    table: Table | None
    own_terms: bool
    tokenizer: Any
    vocab_size: int
    max_length: int
    max_positions: int
    special_tokens: dict[str, int]
    dropped_terms: tuple[int, ...]
    licence: str
    weights_sha256: str
    notes: tuple[str, ...]
    query_idf: float = 0.0
    depends_on_padding: bool = False

    @property
    def root(self) -> Path:
        """The directory the user named, or the snapshot of the hub repository."""
        return self.located.path


def open_checkpoint(spec: str, role: Side | None = None, options: OpenOptions | None = None) -> Checkpoint:
    """Open the side ``role`` of ``spec`` (a directory or a hub id).

    Without a role the checkpoint must hold one encoder only, which then serves both sides.

    Raises CheckpointError whenever the encoder cannot be loaded exactly as it was trained.
    """
    options = options or OpenOptions()
    located = _locate(spec, options)
    files = locate_encoder(located.path, role)
    family, query_side, config = _identify(located, files, options)
    if role is None and query_side in DERIVED_SIDES:
        raise two_sides(located.path)
    if role == "query" and query_side in TABLE_SIDES:
        return _open_table(located, files, family, query_side, config, options)
    model, notes = load_masked_lm(
        files.directory, config, allow_pickle=options.allow_pickle, trust_remote_code=options.trust_remote_code
    )
    tokenizer = load_tokenizer(
        (files.directory, files.root),
        embedding_rows(model),
        trust_remote_code=options.trust_remote_code,
    )
    special_tokens = special_token_ids(tokenizer)
    max_positions = longest_input(model) or _NO_LENGTH
    max_length = _max_length(options.max_length, files, tokenizer, family, max_positions)
    check_lengths(model, max_length)
    padded = depends_on_padding(model, special_tokens.get("pad_token", 0), max_length)
    if padded:
        notes += (PADDING_NOTE,)
    dropped = family.query_dropped if role == "query" else family.document_dropped
    return Checkpoint(
        located=located,
        directory=files.directory,
        role=role or _only_role(located.name, query_side, stated_role(files.directory)),
        family=family,
        pooling=files.pooling or family.pooling,
        activation=files.activation or family.activation,
        query_side=query_side,
        model=model,
        table=None,
        own_terms=role == "query" and query_side == "masked encoder",
        tokenizer=tokenizer,
        vocab_size=logits_width(model),
        max_length=max_length,
        max_positions=max_positions,
        special_tokens=special_tokens,
        dropped_terms=_dropped_terms(dropped, special_tokens, tokenizer),
        licence=options.licence or stated_licence((files.directory, files.root)),
        weights_sha256=weights_sha256(files.directory),
        notes=notes,
        query_idf=_query_idf(options, stated_query_idf(config, files.directory)) if role != "document" else 0.0,
        depends_on_padding=padded,
    )


def holds_pair(spec: str, options: OpenOptions | None = None) -> bool:
    """Whether ``spec`` holds a query and a document side that differ. Raises CheckpointError if it cannot be opened."""
    options = options or OpenOptions()
    located = _locate(spec, options)
    if has_both_sides(located.path):
        return True
    _, query_side, _ = _identify(located, locate_encoder(located.path, None), options)
    return query_side in DERIVED_SIDES


def _locate(spec: str, options: OpenOptions) -> Located:
    return locate_checkpoint(
        spec,
        revision=options.revision,
        offline=options.offline,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )


def _identify(located: Located, files: EncoderFiles, options: OpenOptions) -> tuple[Family, QuerySide, Any]:
    """Family, query side and transformers configuration. A table has that of the document encoder it belongs to."""
    encoder = files if files.table is None else locate_encoder(located.path, "document")
    config = load_config(encoder.directory, trust_remote_code=options.trust_remote_code)
    evidence = Evidence(
        name=located.name.rpartition("/")[2],
        model_type=config.model_type,
        pooling=encoder.pooling,
        activation=encoder.activation,
        query_side=files.query_side,
    )
    family = family_from(options.family) if options.family else detect_family(evidence)
    check_family(family, evidence)
    return family, files.query_side or family.query_sides[0], config


def _open_table(
    located: Located,
    files: EncoderFiles,
    family: Family,
    query_side: QuerySide,
    config: Any,
    options: OpenOptions,
) -> Checkpoint:
    """The query side that is a look-up table or a binary bag of words. No model is loaded."""
    vocab_size = int(config.vocab_size)
    places = (files.directory, files.root, locate_encoder(files.root, "document").directory)
    tokenizer = load_tokenizer(places, vocab_size, trust_remote_code=options.trust_remote_code)
    table: Table = np.ones(vocab_size, np.float32)
    notes: tuple[str, ...] = ()
    if query_side == "look-up" or files.table is not None:
        path = files.table or (_named_table(located.path, family) if family.look_up else None)
        if path is None:
            raise CheckpointError(
                f"{located.name}: the query side of {family.name} is a look-up, and there is no table (idf.json); "
                "download the checkpoint again, or name the file in a family file (look_up)"
            )
        table, notes = read_table(path, tokenizer.get_vocab(), vocab_size)
    special_tokens = special_token_ids(tokenizer)
    return Checkpoint(
        located=located,
        directory=files.directory,
        role="query",
        family=family,
        pooling="",
        activation="",
        query_side=query_side,
        model=None,
        table=table,
        own_terms=True,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        max_length=_max_length(options.max_length, files, tokenizer, family, _NO_LENGTH),
        max_positions=_NO_LENGTH,
        special_tokens=special_tokens,
        # What every text gets says nothing of a query; sentence-transformers does not even add it for a look-up.
        dropped_terms=tuple(
            sorted({*_dropped_terms(family.query_dropped, special_tokens, tokenizer), *tokenizer("")["input_ids"]})
        ),
        licence=options.licence or stated_licence((files.directory, files.root)),
        weights_sha256=hashlib.sha256(table.tobytes()).hexdigest(),
        notes=notes,
        query_idf=_query_idf(options, 0.0),  # a table has no config.json, and may be an idf itself
    )


def _named_table(root: Path, family: Family) -> Path:
    path = root / str(family.look_up)
    if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
        raise CheckpointError(f"{root} has no file {family.look_up}, the look-up of {family.origin}")
    return path


def _query_idf(options: OpenOptions, stated: float) -> float:
    return stated if options.query_idf is None else check_power(options.query_idf)


def stated_query_idf(config: Any, directory: Path) -> float:
    """``query_idf`` of a checkpoint's ``config.json``, 0 without it. Raises CheckpointError."""
    stated = getattr(config, "query_idf", 0.0)
    try:
        return check_power(stated)
    except InputError:
        raise CheckpointError(
            f"{directory / 'config.json'} has query_idf {stated!r}, which is no number from 0 to {LARGEST_POWER}"
        ) from None


def _only_role(name: str, query_side: QuerySide, stated: Side | None) -> Role:
    """The role of the only encoder of a checkpoint whose side was not named."""
    if stated is not None:
        raise CheckpointError(f"{name} was trained as the {stated} encoder of a pair; say --role {stated}")
    if query_side == "own encoder":
        raise CheckpointError(f"{name} is one side of a pair; say which with --role query or --role document")
    return "both"


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


def stated_licence(directories: Sequence[Path]) -> str:
    """``license:`` in the front matter of the first README.md that states one, or "unknown"."""
    from huggingface_hub import ModelCard

    for directory in directories:
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
