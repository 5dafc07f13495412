"""The tokenizer of a checkpoint, as the reference encoder uses it and as the artifact carries it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import CheckpointError

_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")


def load_tokenizer(places: Sequence[Path], vocab_size: int, *, trust_remote_code: bool) -> Any:
    """The fast tokenizer in the first of ``places`` that has one: an encoder's own directory, the checkpoint's root.

    Raises CheckpointError: none there, damaged, only a slow (pure Python) one, or larger than the model's vocabulary.
    """
    from transformers import AutoTokenizer

    directory = next((d for d in places if any((d / name).is_file() for name in _FILES)), None)
    if directory is None:
        raise CheckpointError(f"{places[0]} has no tokenizer (tokenizer.json); copy it there from its source")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, use_fast=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # the tokenizers library raises plain Exception
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the tokenizer of {directory} does not load ({reason}); get it again") from error
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"the tokenizer of {directory} has no tokenizer.json; convert it with transformers first")
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= largest < vocab_size:
        raise CheckpointError(
            f"the tokenizer of {directory} has term id {largest}, the model a vocabulary of {vocab_size}; "
            "they do not belong together"
        )
    return tokenizer


def special_token_ids(tokenizer: Any) -> dict[str, int]:
    """Term ids of the special tokens by their name: ``cls_token``, ``sep_token``, ``pad_token`` and so on."""
    found = {}
    for name, token in tokenizer.special_tokens_map.items():
        if isinstance(token, str) and (term := tokenizer.convert_tokens_to_ids(token)) is not None:
            found[name] = int(term)
    return dict(sorted(found.items()))


def write_tokenizer(tokenizer: Any, path: Path) -> None:
    """Write ``tokenizer.json`` without truncation or padding settings; the runtime sets its own."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    path.write_text(plain.to_str(pretty=False), encoding="utf-8")
