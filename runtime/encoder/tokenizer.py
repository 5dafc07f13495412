"""Text to token ids with the ``tokenizers`` library, truncated by us and never padded by the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from ..errors import ArtifactError, InputError
from ..files import NOT_THERE, reading
from ..forking import cached_property


class TokenIds(NamedTuple):
    """Token ids of one text with its special tokens, at most ``max_length`` of them.

    ``truncated``: some were cut; ``known``: some token is neither the unknown token nor one that every text gets.
    """

    ids: list[int]
    truncated: bool
    known: bool


class TokenSpans(NamedTuple):
    """Where the tokens of a whole text lie, without special tokens.

    ``offsets``: (start, end) in characters of the text that was tokenized; ``words``: for each token the number of its
    word, None where the tokenizer does not say.
    """

    offsets: list[tuple[int, int]]
    words: list[int | None]


class TextTokenizer:
    """The tokenizer of one encoder.

    ``max_length`` counts special tokens. Truncation and padding settings inside ``tokenizer.json`` are ignored: files
    from the hub come with either, neither or both. Raises ArtifactError if the file does not load.
    """

    def __init__(self, path: Path, max_length: int) -> None:
        self.path = path
        self.max_length = max_length
        self._tokenizer = _load(path)
        special = self._tokenizer.num_special_tokens_to_add(False)
        if max_length <= special:
            raise ArtifactError(f"{path}: a maximum length of {max_length} has no room beside {special} special tokens")
        self._tokenizer.enable_truncation(max_length)
        self.special_tokens = special
        self._unknown = {*self._tokenizer.encode("").ids, *_unknown_ids(self._tokenizer)}

    def encode(self, text: str) -> TokenIds:
        """Token ids of ``text``. Raises InputError if it is not a str."""
        # One text a call: the library's batch call starts threads of its own, which our `threads` cannot bound.
        encoding = self._tokenizer.encode(clean_text(text))
        ids = encoding.ids
        return TokenIds(ids, bool(encoding.overflowing), not self._unknown.issuperset(ids))

    def spans(self, text: str) -> TokenSpans:
        """Offsets of every token of ``text``, not truncated. Offsets refer to ``clean_text(text)``."""
        encoding = self._whole.encode(clean_text(text), add_special_tokens=False)
        return TokenSpans(encoding.offsets, encoding.word_ids)

    def vocabulary(self, vocab_size: int) -> list[str]:
        """The token of each term id, length ``vocab_size``; ``"[12]"`` stands for an id 12 without a token."""
        terms = [f"[{term}]" for term in range(vocab_size)]
        for token, term in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if term < vocab_size:
                terms[term] = token
        return terms

    @cached_property
    def _whole(self) -> Tokenizer:
        # Truncation is a state of the object, so whole texts need a second one.
        return _load(self.path)


def clean_text(text: str) -> str:
    """``text`` with surrogates joined where they pair up and replaced by U+FFFD where they do not.

    A Python string may hold lone surrogates (from ``surrogateescape`` or a JSON escape); UTF-8 cannot.
    """
    if not isinstance(text, str):
        raise InputError(f"a text to encode is of type {type(text).__name__}; give a str")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def vocabulary_sha256(tokenizer_json: Path, vocab_size: int) -> str:
    """Digest of token -> term id: SHA-256 over ``"token\\tid\\n"`` in UTF-8 for ids below ``vocab_size``, by id.

    Two encoders whose digests are equal share their term ids, so an index of one can be searched with the other.
    """
    vocabulary = _load(tokenizer_json).get_vocab(with_added_tokens=True)
    digest = hashlib.sha256()
    for term, token in sorted((term, token) for token, term in vocabulary.items() if term < vocab_size):
        digest.update(f"{token}\t{term}\n".encode())
    return digest.hexdigest()


def _unknown_ids(tokenizer: Tokenizer) -> list[int]:
    """The id of the unknown token, if the model has one: WordPiece and BPE name it, Unigram numbers it."""
    model = tokenizer.model
    if hasattr(model, "unk_token"):
        named = tokenizer.token_to_id(model.unk_token) if model.unk_token else None
    else:  # Unigram does not show it
        named = json.loads(tokenizer.to_str())["model"].get("unk_id")
    return [] if named is None else [int(named)]


def _load(path: Path) -> Tokenizer:
    try:
        with reading(path):
            text = path.read_text(encoding="utf-8")
    except (*NOT_THERE, UnicodeDecodeError) as error:
        raise ArtifactError(f"cannot read {path} ({error}); export the encoder again") from None
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        reason = str(error).partition("\n")[0]
        raise ArtifactError(f"{path} is not a tokenizer this release of tokenizers reads ({reason})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
