"""How long encoders take, side by side: in turns, one text at a time, the least of several runs.

In CPU time of the process, which is the latency where encoders have one thread, whatever else the machine does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from ...runtime.artifact import Side
from ...runtime.encoder import Encoder
from ...runtime.encoder.tokenizer import TextTokenizer
from ...runtime.warming import use_kernels

QUERY_TOKENS, DOCUMENT_TOKENS = 16, 128
_RUNS: dict[Side, int] = {"query": 60, "document": 12}


def milliseconds(encoders: Mapping[str, Encoder], sides: Sequence[Side]) -> dict[str, dict[str, float]]:
    """Time encoders side by side, in turns, one text at a time.

    Parameters
    ----------
    encoders : mapping of str to Encoder
        Encoders of one thread, by name. All must have the same tokenizer.
    sides : sequence of {"query", "document"}
        The sides to time.

    Returns
    -------
    dict of str to dict of str to float
        For each encoder the CPU time in milliseconds of a text of each side, by its length in tokens (``"query 16"``);
        the least of several runs.
    """
    use_kernels()
    found: dict[str, dict[str, float]] = {name: {} for name in encoders}
    for side in sides:
        tokens = QUERY_TOKENS if side == "query" else DOCUMENT_TOKENS
        some = next(iter(encoders.values()))
        length = min(tokens, some.tokenizer_of(side).max_length)
        text = _text_of(some.tokenizer_of(side), length)
        best = dict.fromkeys(encoders, float("inf"))
        for _ in range(_RUNS[side]):
            for name, encoder in encoders.items():
                started = time.process_time()
                next(encoder.encode([text], side))
                best[name] = min(best[name], time.process_time() - started)
        for name, seconds in best.items():
            found[name][f"{side} {length}"] = seconds * 1e3
    return found


def _text_of(tokenizer: TextTokenizer, length: int) -> str:
    """A text of ``length`` tokens, the prompt and special ones included, of common words; longer where a word takes
    several tokens.
    """
    words = "what is the name of the first country that had a river and a city in the north of it".split()  # noqa: SIM905
    text = ""
    for place in range(length):
        longer = f"{text} {words[place % len(words)]}".strip()
        if len(tokenizer.encode(longer).ids) > length:
            break
        text = longer
    return text or words[0]
