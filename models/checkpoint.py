"""Opening a checkpoint: from a directory or a hub id to a model, a tokenizer and everything the export has to know."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..runtime.artifact import MAX_LENGTH, UNLIMITED
from ..runtime.errors import CheckpointError, InputError
from ..runtime.idf import LARGEST_POWER, check_power
from .custom_family import family_from
from .families import (
    DEFAULT_ACTIVATION,
    DEFAULT_POOLING,
    DERIVED_SIDES,
    TABLE_SIDES,
    Evidence,
    Family,
    QuerySide,
    check_family,
    detect_family,
    published_family,
)
from .head import check_lengths, embedding_rows, logits_width
from .head import max_positions as longest_input
from .hub import Located, locate_checkpoint
from .keys import account, unread
from .layout import SIDES, EncoderFiles, Side, has_both_sides, locate_encoder, stated_role, two_sides
from .look_up import Table, read_table
from .options import OpenOptions
from .padding import PADDING_NOTE, depends_on_padding
from .side_text import Normalization, SideText, check_room, normalization, read_by_encoder, read_by_table
from .tokenizing import LoadedTokenizer, load_tokenizer, special_token_ids
from .weights import load_config, load_masked_lm, stored_dtype, weights_sha256

Role = Literal["query", "document", "both"]


@dataclass(frozen=True)
class Checkpoint:
    """One side of a checkpoint, loaded.

    ``model``: a transformers masked-language model, float32, evaluation mode; None where a text's weights come from
    ``table``, float32 ``[vocab_size]``. ``loaded``: its fast tokenizer. ``role``: the side it serves, "both" if one
    encoder serves both; ``sides``: what is done to their texts. ``adds_special_tokens`` is false for a table.
    ``own_terms``: whether only the terms of the text itself keep their weight (a mask by bag of words; always so with a
    table). ``dropped_terms``: term ids whose weight is zero. ``max_active_dims``: only so many of the largest weights
    are kept; ``normalization``: L2, of all terms or of those that are kept. ``max_positions`` is the longest input the
    model can take. ``query_idf`` is what a search does to the query weights (see
    :func:`splade_edge.runtime.idf.idf_factors`): the key of that name in ``config.json``, 0 without it and for
    documents.

    ``stored_dtype``: of its weights on disk. ``library_root`` is what sentence-transformers opens for this side;
    ``deviation`` says why its vectors are not to be compared with, "" where they are. ``unknown``: keys that stand
    in no row of :mod:`keys`; ``ignored``: those of them that were to be ignored.
    ``options``: what it was opened with. ``notes`` say what was unusual about the files.
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
    loaded: LoadedTokenizer
    sides: Mapping[Side, SideText]
    adds_special_tokens: bool
    vocab_size: int
    max_positions: int
    special_tokens: dict[str, int]
    dropped_terms: tuple[int, ...]
    max_active_dims: int | None
    normalization: Normalization
    licence: str
    weights_sha256: str
    stored_dtype: str
    library_root: Path
    deviation: str
    unknown: tuple[str, ...]
    ignored: tuple[str, ...]
    options: OpenOptions
    notes: tuple[str, ...]
    query_idf: float = 0.0
    depends_on_padding: bool = False

    @property
    def root(self) -> Path:
        """The directory the user named, or the snapshot of the hub repository."""
        return self.located.path

    @property
    def tokenizer(self) -> Any:
        """The fast tokenizer of transformers."""
        return self.loaded.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of the longest text of any side, special ones and the prompt included."""
        return max(side.max_length for side in self.sides.values())

    @property
    def half_precision(self) -> bool:
        """Whether its weights are stored in float16 or bfloat16."""
        return self.stored_dtype in ("float16", "bfloat16")

    def token_ids(self, text: str, side: Side) -> list[int]:
        """The ids that the encoder gets for a text of a side."""
        return [int(term) for term in self._tokenized(text, side)["input_ids"]]

    def uses_token_types(self, text: str) -> bool:
        """Whether the tokenizer gives some token of a text another type than 0, which an exported graph cannot take."""
        return any(any(self._tokenized(text, side).get("token_type_ids", ())) for side in self.sides)

    def _tokenized(self, text: str, side: Side) -> Mapping[str, Any]:
        settings = self.sides[side]
        tokenized: Mapping[str, Any] = self.tokenizer(
            settings.prompt + text,
            truncation=True,
            max_length=settings.max_length,
            add_special_tokens=self.adds_special_tokens,
        )
        return tokenized


def open_checkpoint(spec: str, role: Side | None = None, options: OpenOptions | None = None) -> Checkpoint:
    """Open the side ``role`` of ``spec`` (a directory or a hub id).

    Without a role the checkpoint must hold one encoder only, which then serves both sides.

    Raises CheckpointError whenever the encoder cannot be loaded exactly as it was trained.
    """
    options = options or OpenOptions()
    if options.family:  # a file is called by the name it gives, which may leave this machine
        options = replace(options, family=family_from(options.family))
    located = _locate(spec, options)
    files = locate_encoder(located.path, role)
    identity = _identify(located, files, options)
    if role is None and identity.query_side in DERIVED_SIDES:
        raise two_sides(located.path)
    if role == "query" and identity.query_side in TABLE_SIDES:
        return _open_table(located, files, identity, options)
    unknown = account(files, identity.config, identity.family.look_up)
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
    only_role = role or _only_role(located.name, identity.query_side, stated_role(files.directory))
    served = SIDES if only_role == "both" else (only_role,)
    max_positions = min(longest_input(model) or MAX_LENGTH, MAX_LENGTH)
    sides = {
        side: read_by_encoder(side, files, options, loaded.tokenizer, identity.family, max_positions) for side in served
    }
    longest = max(text.max_length for text in sides.values())
    check_lengths(model, longest)
    padded = depends_on_padding(model, special_token_ids(loaded.tokenizer).get("pad_token", 0), longest)
    return _opened(
        located,
        files,
        identity,
        options,
        loaded,
        role=only_role,
        model=model,
        table=None,
        own_terms=role == "query" and identity.query_side == "masked encoder",
        adds_special_tokens=True,
        sides=sides,
        vocab_size=logits_width(model),
        max_positions=max_positions,
        weights_sha256=weights_sha256(files.directory),
        stored_dtype=str(stored_dtype(files.directory)).removeprefix("torch."),
        **_accounted(unknown, options),
        notes=(*notes, *([PADDING_NOTE] if padded else []), *_unread_notes(files)),
        query_idf=_query_idf(options, stated_query_idf(identity.config, files.directory))
        if role != "document"
        else 0.0,
        depends_on_padding=padded,
    )


def holds_pair(spec: str, options: OpenOptions | None = None) -> bool:
    """Whether ``spec`` holds a query and a document side that differ. Raises CheckpointError if it cannot be opened."""
    options = options or OpenOptions()
    located = _locate(spec, options)
    if has_both_sides(located.path):
        return True
    return _identify(located, locate_encoder(located.path, None), options).query_side in DERIVED_SIDES


def _locate(spec: str, options: OpenOptions) -> Located:
    return locate_checkpoint(
        spec,
        revision=options.revision,
        offline=options.offline,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )


@dataclass(frozen=True)
class _Identity:
    """What kind of encoder one side is. ``chosen``: by the user or by a hub id, so that the family decides what gets no
    weight; else the files do.
    """

    family: Family
    chosen: bool
    query_side: QuerySide
    config: Any


def _identify(located: Located, files: EncoderFiles, options: OpenOptions) -> _Identity:
    """Family, query side and transformers configuration. A table has that of the document encoder it belongs to."""
    encoder = files if files.table is None else locate_encoder(located.path, "document")
    config = load_config(encoder.directory, trust_remote_code=options.trust_remote_code)
    evidence = Evidence(
        name=located.name.rpartition("/")[2],
        model_type=config.model_type,
        pooling=encoder.pooling,
        activation=encoder.activation,
        query_side=files.query_side,
        hub_id=located.name if located.revision else "",
    )
    chosen = family_from(options.family) if options.family else None
    if chosen is None and not files.modules:  # modules state it all themselves
        chosen = published_family(evidence)
    family = chosen or detect_family(evidence)
    check_family(family, evidence)
    return _Identity(family, chosen is not None, files.query_side or family.query_sides[0], config)


def _open_table(located: Located, files: EncoderFiles, identity: _Identity, options: OpenOptions) -> Checkpoint:
    """The query side that is a look-up table or a binary bag of words. No model is loaded."""
    family, vocab_size = identity.family, int(identity.config.vocab_size)
    # sentence-transformers reads the tokenizer beside a table; other layouts have one for both sides.
    places = (files.directory, files.root, locate_encoder(files.root, "document").directory)
    loaded = load_tokenizer(
        places, vocab_size, trust_remote_code=options.trust_remote_code, made_from=options.tokenizer
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
    return _opened(
        located,
        files,
        identity,
        options,
        loaded,
        role="query",
        model=None,
        table=table,
        own_terms=True,
        # What every text gets says nothing of a query: sentence-transformers does not add it either.
        adds_special_tokens=False,
        sides={"query": read_by_table(files, options, tokenizer, family)},
        vocab_size=vocab_size,
        max_positions=UNLIMITED,
        weights_sha256=hashlib.sha256(table.tobytes()).hexdigest(),
        stored_dtype="float32",
        **_accounted(account(files, None, family.look_up), options),
        notes=notes,
        query_idf=_query_idf(options, 0.0),  # a table has no config.json, and may be an idf itself
    )


def _opened(
    located: Located,
    files: EncoderFiles,
    identity: _Identity,
    options: OpenOptions,
    loaded: LoadedTokenizer,
    *,
    role: Role,
    table: Table | None,
    own_terms: bool,
    adds_special_tokens: bool,
    sides: Mapping[Side, SideText],
    **rest: Any,
) -> Checkpoint:
    """A side with what encoders and tables have in common."""
    family, tokenizer = identity.family, loaded.tokenizer
    special_tokens = special_token_ids(tokenizer)
    dropped = family.query_dropped if role == "query" else family.document_dropped
    pooling = "" if table is not None else files.pooling or family.pooling
    activation = "" if table is not None else files.activation or family.activation
    checkpoint = Checkpoint(
        located=located,
        directory=files.directory,
        role=role,
        family=family,
        pooling=pooling,
        activation=activation,
        query_side=identity.query_side,
        table=table,
        own_terms=own_terms,
        loaded=loaded,
        sides=sides,
        adds_special_tokens=adds_special_tokens,
        special_tokens=special_tokens,
        dropped_terms=_dropped_terms(dropped, special_tokens, tokenizer) if identity.chosen else (),
        max_active_dims=options.max_active_dims or files.model.max_active_dims,
        normalization=normalization(files, options),
        licence=options.licence or stated_licence((files.directory, files.root)),
        library_root=files.library_root,
        deviation="",
        options=options,
        **rest,
    )
    check_room(sides, tokenizer, tokenizer.num_special_tokens_to_add() if adds_special_tokens else 0, files)
    return replace(checkpoint, deviation=_deviation(checkpoint, files))


def _deviation(checkpoint: Checkpoint, files: EncoderFiles) -> str:
    """Why sentence-transformers would give other vectors for a reason that is known; "" if it would not."""
    if checkpoint.tokenizer.pad_token is None:
        return "sentence-transformers needs a padding token, and the tokenizer has none"
    if checkpoint.dropped_terms:
        return f"the family {checkpoint.family.name} gives special tokens no weight"
    if (checkpoint.table is not None or checkpoint.own_terms) and not files.modules:
        return f"sentence-transformers does not know that its query side is a {checkpoint.query_side}"
    if checkpoint.table is None:
        library = (files.pooling or DEFAULT_POOLING, files.activation or DEFAULT_ACTIVATION)
        if (checkpoint.pooling, checkpoint.activation) != library:
            return f"the family {checkpoint.family.name} is pooled otherwise"
    return ""


def _unread_notes(files: EncoderFiles) -> list[str]:
    names = ", ".join(unread(files))
    return [f"without modules.json neither sentence-transformers nor this export reads {names}"] if names else []


def _accounted(found: Sequence[str], options: OpenOptions) -> dict[str, tuple[str, ...]]:
    """The keys that are not known, and those of them that were to be ignored."""
    ignored = tuple(key for key in found if key in options.ignore or key.partition(": ")[2] in options.ignore)
    return {"unknown": tuple(key for key in found if key not in ignored), "ignored": ignored}


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
