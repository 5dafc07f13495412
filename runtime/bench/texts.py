"""Texts to measure with: the user's, sampled from an index, or made of the tokenizer's own words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from ..build.corpus import looks_like_json, parse_object, read_corpus, text_field, tsv_header
from ..build.indexing import join_title
from ..build.lines import BadLines, decode_line, read_lines, source_name
from ..encoder.tokenizer import TextTokenizer
from ..errors import CorpusError, InputError
from ..index import Index

_SEED = 0
_WORDS = (3, 12)  # the fewest and most words of a sampled query


def read_query_texts(source: str, limit: int) -> list[str]:
    """Read the first queries of a file: BEIR JSON lines, TSV (the last column), or one text a line.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.
    limit
        The most queries.

    Returns
    -------
    list of str
        At least one query.

    Raises
    ------
    InputError
        If the file cannot be read or has no queries.
    CorpusError
        For a line that cannot be used.
    """
    texts = list(islice(_query_texts(source), limit))
    if not texts:
        raise InputError(f"{source_name(source)} has no queries")
    return texts


def _query_texts(source: str) -> Iterator[str]:
    first = True
    for line in read_lines(source, BadLines("fail")):
        if not line.data.strip():
            continue
        try:
            if line.data.lstrip()[:1] == b"{" and looks_like_json(line.data):
                yield text_field(parse_object(line.data), "text")
            elif not (first and tsv_header(line.data)):
                yield decode_line(line.data).rpartition("\t")[2]
        except ValueError as error:
            raise CorpusError(f"{line.location}: {error}") from None
        first = False


def read_document_texts(source: str, limit: int) -> list[str]:
    """Read the first documents of a corpus, title and text joined as they are encoded.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.
    limit
        The most documents.

    Returns
    -------
    list of str
        At least one text.

    Raises
    ------
    InputError
        If the file cannot be read or has no documents.
    CorpusError
        For a line that cannot be used.
    """
    records = islice(read_corpus([source], BadLines("fail")), limit)
    texts = [join_title(record.document.title, record.document.text) for record in records]
    if not texts:
        raise InputError(f"{source_name(source)} has no documents")
    return texts


def sample_queries(index: Index, count: int) -> list[str]:
    """Sample queries of 3 to 12 consecutive words from documents spread over an index. They are the same each time.

    Parameters
    ----------
    index
        The index.
    count
        The most queries.

    Returns
    -------
    list of str
        At least one query.

    Raises
    ------
    InputError
        If no document has a text.
    """
    rng = np.random.default_rng(_SEED)
    ordinals = np.unique(np.linspace(0, len(index) - 1, min(count, len(index))).astype(np.int64))
    queries = []
    for document in index.documents(ordinals):
        words = join_title(document.title, document.text).split()
        if words:
            length = int(rng.integers(_WORDS[0], _WORDS[1] + 1))
            start = int(rng.integers(0, max(1, len(words) - length + 1)))
            queries.append(" ".join(words[start : start + length]))
    if not queries:
        raise InputError(f"{index.path} stores no texts to sample queries from; give some with --queries")
    return queries


def made_texts(tokenizer: TextTokenizer, vocab_size: int, tokens: int, count: int) -> list[str]:
    """Make texts of words that are in the vocabulary. They are the same each time.

    Parameters
    ----------
    tokenizer
        The tokenizer of the encoder.
    vocab_size
        The number of terms.
    tokens
        About how many tokens a text has, prompt and special tokens included.
    count
        How many texts.

    Returns
    -------
    list of str
        The texts.
    """
    words = [term.lstrip("Ġ▁") for term in tokenizer.vocabulary(vocab_size)]
    words = sorted({word for word in words if len(word) > 2 and word.isalpha()}) or ["a"]
    rng = np.random.default_rng(_SEED)
    return [_text_of(tokenizer, words, rng, tokens) for _ in range(count)]


def _text_of(tokenizer: TextTokenizer, words: Sequence[str], rng: np.random.Generator, tokens: int) -> str:
    """As many words as tokens are wanted, or fewer if some words have several tokens."""
    chosen = [
        words[i]
        for i in rng.integers(0, len(words), max(1, tokens - tokenizer.special_tokens - tokenizer.prompt_tokens))
    ]
    while len(chosen) > 1 and _length(tokenizer, chosen) > tokens:
        chosen.pop()
    return " ".join(chosen)


def _length(tokenizer: TextTokenizer, words: Sequence[str]) -> int:
    encoded = tokenizer.encode(" ".join(words))
    return len(encoded.ids) + encoded.truncated  # a truncated text is too long
