"""Text to token ids with the ``tokenizers`` library, truncated by us and never padded by the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from ..artifact import UNLIMITED, Artifact, Side, TruncationSide
from ..errors import ArtifactError, InputError, export_again
from ..files import NOT_THERE, reading
from ..forking import cached_property
from .cutting import MOST_CHARACTERS, Cut, Cutter
from .library_errors import tokenizers_errors
from .tokenizer_check import check_tokenizer


class TokenIds(NamedTuple):
    """Token ids of one text with its prompt and special tokens, at most ``max_length`` of them.

    ``truncated``: some were cut; ``known``: some token of the text itself is neither the unknown token nor one that
    every text gets.
    """

    ids: list[int]
    truncated: bool
    known: bool


class ReadText(NamedTuple):
    """What is read of a text: ``text`` with the prompt before it, without what was cut; ``truncated``: some was."""

    text: str
    truncated: bool


class TokenSpans(NamedTuple):
    """Where the tokens of a whole text lie, without special tokens.

    ``offsets``: (start, end) in characters of the text that was tokenized; ``words``: for each token the number of its
    word, None where the tokenizer does not say.
    """

    offsets: list[tuple[int, int]]
    words: list[int | None]


class TextTokenizer:
    """The tokenizer of one side of an encoder.

    ``max_length`` counts special tokens and those of the ``prompt``, which is put before every text; longer texts are
    cut at the ``truncation_side``. ``adds_special_tokens`` and ``split_special_tokens``: see
    :class:`~splade_edge.runtime.artifact.ArtifactManifest`. Truncation and padding settings inside ``tokenizer.json``
    are ignored: files from the hub come with either, neither or both.

    ``special_tokens`` and ``prompt_tokens``: how many every text gets; ``room``: how many are left for its own, below 1
    only where a long prompt is cut with the text; ``most_characters``: how many of a text are looked at. Raises
    ArtifactError if the file does not load or there is no room.
    """

    def __init__(
        self,
        path: Path,
        max_length: int,
        *,
        prompt: str = "",
        adds_special_tokens: bool = True,
        truncation_side: TruncationSide = "right",
        split_special_tokens: bool = False,
    ) -> None:
        self.path = path
        self.max_length = max_length
        self.prompt = clean_text(prompt)
        self.truncation_side = truncation_side
        self._split_special_tokens = split_special_tokens
        self._tokenizer, self.most_characters = self._load()
        with tokenizers_errors(path):
            self.special_tokens = self._tokenizer.num_special_tokens_to_add(False) if adds_special_tokens else 0
            self.prompt_tokens = len(self._tokenizer.encode(self.prompt, add_special_tokens=False).ids) if prompt else 0
            self._unknown = {*self._tokenizer.encode("").ids, *_unknown_ids(self._tokenizer)}
            self._cutter = Cutter(
                self._tokenizer, path, add_special_tokens=adds_special_tokens, most=self.most_characters
            )
        self.room = max_length - self.special_tokens - self.prompt_tokens
        # The library neither raises nor cuts where the limit is below the number of special tokens.
        if max_length <= self.special_tokens:
            raise ArtifactError(
                f"{path}: a maximum length of {max_length} has no room beside {self.special_tokens} special tokens; "
                f"{export_again('--max-length N')}"
            )
        if self.room < 1 and truncation_side == "right":
            raise ArtifactError(
                f"{path}: a maximum length of {max_length} has no room beside a prompt of {self.prompt_tokens} tokens "
                f"and {self.special_tokens} special tokens; {export_again('--max-length N')}, or with a shorter "
                "--prompt-query or --prompt-document"
            )
        if max_length < UNLIMITED:
            self._tokenizer.enable_truncation(max_length, direction=truncation_side)

    @classmethod
    def of(cls, artifact: Artifact, side: Side) -> TextTokenizer:
        """The tokenizer of a side of an artifact. Raises ArtifactError."""
        manifest, settings = artifact.manifest, artifact.settings(side)
        return cls(
            artifact.file("tokenizer.json"),
            settings.max_length,
            prompt=settings.prompt,
            adds_special_tokens=manifest.adds_special_tokens,
            truncation_side=manifest.truncation_side,
            split_special_tokens=manifest.split_special_tokens,
        )

    def encode(self, text: str) -> TokenIds:
        """Token ids of ``text`` behind its prompt. Raises InputError if it is not a str."""
        # One text a call: the library's batch call starts threads of its own, which our `threads` cannot bound.
        cut = self._encode(text)
        ids = own = cut.encoding.ids
        if self.prompt and not cut.starts_late:
            start = len(self.prompt)
            own = [term for term, (_, end) in zip(ids, cut.encoding.offsets, strict=True) if end > start]
        return TokenIds(ids, cut.truncated, not self._unknown.issuperset(own))

    def read(self, text: str) -> ReadText:
        """What :meth:`encode` reads of ``text``, as text. Raises InputError if it is not a str."""
        cut = self._encode(text)
        if not cut.truncated:
            return ReadText(cut.text, truncated=False)
        spans = [(start, end) for start, end in cut.encoding.offsets if end > start]  # special tokens have none
        if not spans:
            return ReadText("", truncated=True)
        if self.truncation_side == "right":
            return ReadText(cut.text[: max(end for _, end in spans)], truncated=True)
        return ReadText(cut.text[min(start for start, _ in spans) :], truncated=True)

    def spans(self, text: str) -> TokenSpans:
        """Offsets of every token of ``text``, without prompt, not truncated. They refer to ``clean_text(text)``."""
        with tokenizers_errors(self.path):
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
        return self._load()[0]

    def _encode(self, text: str) -> Cut:
        # Of a long text only the part is looked at, and made harmless, that decides the tokens.
        whole = self.prompt + text if self.prompt and isinstance(text, str) else text
        return self._cutter.encode(self._tokenizer, whole, clean_text)

    def _load(self) -> tuple[Tokenizer, int]:
        tokenizer, most = _load(self.path)
        tokenizer.encode_special_tokens = self._split_special_tokens
        return tokenizer, most


def clean_text(text: str) -> str:
    """``text`` with surrogates joined where they pair up and replaced by U+FFFD where they do not.

    A Python string may hold lone surrogates (from ``surrogateescape`` or a JSON escape); UTF-8 cannot.
    """
    if not isinstance(text, str):
        raise InputError(f"a text to encode is of type {type(text).__name__}; give a str")
    if text.isascii():  # for a long text that takes no memory
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def vocabulary_sha256(tokenizer_json: Path, vocab_size: int) -> str:
    """Digest of token -> term id: SHA-256 over ``"token\\tid\\n"`` in UTF-8 for ids below ``vocab_size``, by id.

    Two encoders whose digests are equal share their term ids, so an index of one can be searched with the other.
    """
    vocabulary = _load(tokenizer_json)[0].get_vocab(with_added_tokens=True)
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


def _load(path: Path) -> tuple[Tokenizer, int]:
    """The tokenizer of a file, and how many characters of a text it may be given."""
    try:
        with reading(path):
            text = path.read_text(encoding="utf-8")
    except (*NOT_THERE, UnicodeDecodeError) as error:
        raise ArtifactError(f"cannot read {path} ({error}); {export_again()}") from None
    most = check_tokenizer(path, text)
    with tokenizers_errors(path):
        tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, MOST_CHARACTERS if most is None else most
