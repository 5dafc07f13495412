"""Opening a checkpoint: from a directory or a hub id to a :class:`Checkpoint`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.artifact import MAX_LENGTH, UNLIMITED
from ..runtime.errors import CheckpointError
from ..runtime.idf import check_power
from .checkpoint import Checkpoint, Role
from .custom_family import family_from
from .families import DEFAULT_ACTIVATION, DEFAULT_POOLING, DERIVED_SIDES, TABLE_SIDES, Family
from .head import check_lengths, embedding_rows, logits_width
from .head import max_positions as longest_input
from .hub import Located, locate_checkpoint
from .identity import Identity, identify
from .keys import account, unread
from .layout import SIDES, EncoderFiles, Side, has_both_sides, locate_encoder, stated_role, two_sides
from .look_up import Table, read_table
from .options import OpenOptions
from .padding import PADDING_NOTE, depends_on_padding
from .side_text import SideText, check_room, normalization, read_by_encoder, read_by_table
from .stated import dropped_terms, only_role, stated_licence, stated_query_idf
from .tokenizing import LoadedTokenizer, load_tokenizer, special_token_ids
from .weights import load_masked_lm, stored_dtype, weights_sha256


def open_checkpoint(spec: str, role: Side | None = None, options: OpenOptions | None = None) -> Checkpoint:
    """Open one side of a checkpoint.

    Parameters
    ----------
    spec : str
        A directory or a hub id.
    role : {"query", "document"}, optional
        The side. Without it the checkpoint must hold one encoder only, which then serves both sides.
    options : OpenOptions, optional
        What may be trusted, and what overrides the files.

    Returns
    -------
    Checkpoint
        The side, loaded in float32.

    Raises
    ------
    CheckpointError
        If the encoder cannot be loaded exactly as it was trained.
    """
    options = options or OpenOptions()
    if options.family:  # a file is called by the name it gives, which may leave this machine
        options = replace(options, family=family_from(options.family))
    located = _locate(spec, options)
    files = locate_encoder(located.path, role)
    side = _Side(located, files, identify(located, files, options), options)
    if role is None and side.identity.query_side in DERIVED_SIDES:
        raise two_sides(located.path)
    if role == "query" and side.identity.query_side in TABLE_SIDES:
        return _open_table(side)
    return _open_encoder(side, role)


def holds_pair(spec: str, options: OpenOptions | None = None) -> bool:
    """Tell whether a checkpoint holds a query and a document side that differ.

    Parameters
    ----------
    spec : str
        A directory or a hub id.
    options : OpenOptions, optional
        See :func:`open_checkpoint`.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be opened.
    """
    options = options or OpenOptions()
    located = _locate(spec, options)
    if has_both_sides(located.path):
        return True
    return identify(located, locate_encoder(located.path, None), options).query_side in DERIVED_SIDES


def _locate(spec: str, options: OpenOptions) -> Located:
    return locate_checkpoint(
        spec,
        revision=options.revision,
        offline=options.offline,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )


@dataclass(frozen=True)
class _Side:
    """One side of a checkpoint before it is loaded: where its files are, what it is, how it is to be opened."""

    located: Located
    files: EncoderFiles
    identity: Identity
    options: OpenOptions


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """What loading a side gives. The names are those of :class:`Checkpoint`, but for ``keys``: those of the files that
    stand in no row of :mod:`keys`.
    """

    role: Role
    model: Any
    table: Table | None
    lexical_only: bool
    loaded: LoadedTokenizer
    sides: Mapping[Side, SideText]
    adds_special_tokens: bool
    vocab_size: int
    max_positions: int
    weights_sha256: str
    stored_dtype: str
    keys: Sequence[str]
    notes: tuple[str, ...]
    query_idf: float
    depends_on_padding: bool = False


def _open_encoder(side: _Side, role: Side | None) -> Checkpoint:
    """A side whose weights come from a masked-language model."""
    located, files, identity, options = side.located, side.files, side.identity, side.options
    keys = account(files, identity.config, identity.family.look_up)
    model, notes = load_masked_lm(
        files.directory,
        identity.config,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )
    loaded = load_tokenizer(
        (files.directory, files.root),
        embedding_rows(model),
        trust_remote_code=options.trust_remote_code,
        arguments=files.transformer.tokenizer_arguments,
        lower_case=files.transformer.do_lower_case,
        made_from=options.tokenizer,
    )
    if getattr(loaded.tokenizer, "chat_template", None) and not files.modules:
        raise CheckpointError(
            f"the tokenizer of {files.directory} has a chat template, so that sentence-transformers would read texts "
            "as chat messages; remove it (chat_template), or save the encoder with sentence-transformers"
        )
    served = role or only_role(located.name, identity.query_side, stated_role(files.directory))
    max_positions = min(longest_input(model) or MAX_LENGTH, MAX_LENGTH)
    sides = {
        name: read_by_encoder(name, files, options, loaded.tokenizer, identity.family, max_positions)
        for name in (SIDES if served == "both" else (served,))
    }
    longest = max(text.max_length for text in sides.values())
    check_lengths(model, longest)
    padded = depends_on_padding(model, special_token_ids(loaded.tokenizer).get("pad_token", 0), longest)
    return _assemble(
        side,
        _Loaded(
            role=served,
            model=model,
            table=None,
            lexical_only=role == "query" and identity.query_side == "masked encoder",
            loaded=loaded,
            sides=sides,
            adds_special_tokens=True,
            vocab_size=logits_width(model),
            max_positions=max_positions,
            weights_sha256=weights_sha256(files.directory),
            stored_dtype=str(stored_dtype(files.directory)).removeprefix("torch."),
            keys=keys,
            notes=(*notes, *([PADDING_NOTE] if padded else []), *_unread_notes(files)),
            query_idf=_query_idf(options, stated_query_idf(identity.config, files.directory))
            if role != "document"
            else 0.0,
            depends_on_padding=padded,
        ),
    )


def _open_table(side: _Side) -> Checkpoint:
    """A query side that is a look-up table or a binary bag of words. No model is loaded."""
    located, files, identity, options = side.located, side.files, side.identity, side.options
    family, vocab_size = identity.family, int(identity.config.vocab_size)
    # sentence-transformers reads the tokenizer beside a table; other layouts have one for both sides.
    directories = (files.directory, files.root, locate_encoder(files.root, "document").directory)
    loaded = load_tokenizer(
        directories, vocab_size, trust_remote_code=options.trust_remote_code, made_from=options.tokenizer
    )
    tokenizer = loaded.tokenizer
    table: Table = np.ones(vocab_size, np.float32)
    notes: tuple[str, ...] = ()
    if identity.query_side == "look-up" or files.table is not None:
        path = files.table or (_named_table(located.path, family) if family.look_up else None)
        if path is None:
            raise CheckpointError(
                f"{located.name}: the query side of {family.name} is a look-up, and there is no table (idf.json); "
                "download the checkpoint again, or name the file in a family file (look_up)"
            )
        table, notes = read_table(path, tokenizer.get_vocab(), vocab_size)
    return _assemble(
        side,
        _Loaded(
            role="query",
            model=None,
            table=table,
            lexical_only=True,
            loaded=loaded,
            sides={"query": read_by_table(files, options, tokenizer, family)},
            # What every text gets says nothing of a query: sentence-transformers does not add it either.
            adds_special_tokens=False,
            vocab_size=vocab_size,
            max_positions=UNLIMITED,
            weights_sha256=hashlib.sha256(table.tobytes()).hexdigest(),
            stored_dtype="float32",
            keys=account(files, None, family.look_up),
            notes=notes,
            query_idf=_query_idf(options, 0.0),  # a table has no config.json, and may be an idf itself
        ),
    )


def _assemble(side: _Side, found: _Loaded) -> Checkpoint:
    """A checkpoint, with what encoders and tables have in common."""
    files, identity, options = side.files, side.identity, side.options
    family, tokenizer = identity.family, found.loaded.tokenizer
    special_tokens = special_token_ids(tokenizer)
    dropped = family.query_dropped if found.role == "query" else family.document_dropped
    ignored = tuple(key for key in found.keys if key in options.ignore or key.partition(": ")[2] in options.ignore)
    is_table = found.table is not None
    checkpoint = Checkpoint(
        located=side.located,
        directory=files.directory,
        role=found.role,
        family=family,
        pooling="" if is_table else files.pooling or family.pooling,
        activation="" if is_table else files.activation or family.activation,
        query_side=identity.query_side,
        model=found.model,
        table=found.table,
        lexical_only=found.lexical_only,
        loaded=found.loaded,
        sides=found.sides,
        adds_special_tokens=found.adds_special_tokens,
        vocab_size=found.vocab_size,
        max_positions=found.max_positions,
        special_tokens=special_tokens,
        dropped_terms=dropped_terms(dropped, special_tokens, tokenizer) if identity.chosen else (),
        max_active_dims=options.max_active_dims or files.model.max_active_dims,
        normalization=normalization(files, options),
        licence=options.licence or stated_licence((files.directory, files.root)),
        weights_sha256=found.weights_sha256,
        stored_dtype=found.stored_dtype,
        library_root=files.library_root,
        deviation="",
        unknown=tuple(key for key in found.keys if key not in ignored),
        ignored=ignored,
        options=options,
        notes=found.notes,
        query_idf=found.query_idf,
        depends_on_padding=found.depends_on_padding,
    )
    added = tokenizer.num_special_tokens_to_add() if found.adds_special_tokens else 0
    check_room(found.sides, tokenizer, added, files)
    return replace(checkpoint, deviation=_deviation(checkpoint, files))


def _deviation(checkpoint: Checkpoint, files: EncoderFiles) -> str:
    """Why sentence-transformers would give other vectors for a reason that is known; "" if it would not."""
    if checkpoint.tokenizer.pad_token is None:
        return "sentence-transformers needs a padding token, and the tokenizer has none"
    if checkpoint.dropped_terms:
        return f"the family {checkpoint.family.name} gives special tokens no weight"
    if (checkpoint.table is not None or checkpoint.lexical_only) and not files.modules:
        return f"sentence-transformers does not know that its query side is a {checkpoint.query_side}"
    if checkpoint.table is None:
        library = (files.pooling or DEFAULT_POOLING, files.activation or DEFAULT_ACTIVATION)
        if (checkpoint.pooling, checkpoint.activation) != library:
            return f"the family {checkpoint.family.name} is pooled otherwise"
    return ""


def _unread_notes(files: EncoderFiles) -> list[str]:
    names = ", ".join(unread(files))
    return [f"without modules.json neither sentence-transformers nor this export reads {names}"] if names else []


def _named_table(root: Path, family: Family) -> Path:
    path = root / str(family.look_up)
    if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
        raise CheckpointError(f"{root} has no file {family.look_up}, the look-up of {family.origin}")
    return path


def _query_idf(options: OpenOptions, stated: float) -> float:
    return stated if options.query_idf is None else check_power(options.query_idf)
