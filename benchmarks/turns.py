"""Encoders side by side: texts of a length, and every encoder's time for them in turns.

Not run by itself. Used by :mod:`benchmarks.document_encoder`, :mod:`benchmarks.encoder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .report import say

Call = Callable[[str], object]


def texts_of(words: Sequence[str], length: int, tokens_of: Callable[[str], int], most: int = 12) -> list[str]:
    """Make texts of exactly so many tokens.

    Parameters
    ----------
    words : sequence of str
        The words to make them of, one after the other.
    length : int
        Tokens of a text.
    tokens_of : callable
        The number of tokens of a text.
    most : int
        The most texts to make.

    Returns
    -------
    list of str
        The texts.
    """
    texts: list[str] = []
    start = 0
    while len(texts) < most and start < len(words):
        end = start + 1
        while end < len(words) and tokens_of(" ".join(words[start : end + 1])) <= length:
            end += 1
        text = " ".join(words[start:end])
        if tokens_of(text) == length:
            texts.append(text)
        start = end
    if not texts:
        raise SystemExit(f"there are too few words for texts of {length} tokens")
    return texts


def in_turns(calls: Mapping[str, Call], texts: Mapping[int, Sequence[str]], rounds: int) -> dict[str, dict[int, float]]:
    """Time encoders in turns: each round takes every text through every encoder, starting with another one.

    Parameters
    ----------
    calls : mapping of str to callable
        The encoders, by name.
    texts : mapping of int to sequence of str
        The texts, by length in tokens.
    rounds : int
        How often each text is encoded.

    Returns
    -------
    dict of str to dict of int to float
        Milliseconds by encoder and length: of each text the least CPU time of the process over the rounds, and the mean
        over texts.
    """
    names = list(calls)
    best = {name: {length: np.full(len(found), np.inf) for length, found in texts.items()} for name in names}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for length, found in texts.items():
            for i in range(len(names)):
                name = names[(i + number) % len(names)]
                call = calls[name]
                call(found[0])  # what the encoder before left in the caches is not this one's matter
                for j, text in enumerate(found):
                    start = time.process_time()
                    call(text)
                    best[name][length][j] = min(best[name][length][j], time.process_time() - start)
    return {name: {n: float(1e3 * values.mean()) for n, values in by.items()} for name, by in best.items()}
