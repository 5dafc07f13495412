"""Classes of vocabulary terms that carry no meaning for retrieval, and texts as token ids."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...runtime.errors import InputError

# Function words of English: determiners, pronouns, prepositions, conjunctions, auxiliaries, question words, and the
# pieces that WordPiece makes of contractions.
STOP_WORDS = frozenset(
    """
    a about above after again against all also am an and any are as at be because been before being below
    between both but by can could d did do does doing don down during each else etc few for from further had has
    have having he her here hers herself him himself his how however i if in into is it its itself just ll m may
    me might more most must my myself no nor not now of off on once one only or other our ours ourselves out
    over own per re s same shall she should so some such t than that the their theirs them themselves then there
    these they this those through to too under until up upon us very via was we were what when where whether
    which while who whom whose why will with within without would you your yours yourself yourselves ve
    """.split()  # noqa: SIM905
)
# Symbols that name things (c++, c#, $home) keep their weight.
_SENTENCE_PUNCTUATION = frozenset(string.punctuation) - frozenset("#$%&*+<=>@\\^_|~/")


def silent_terms(tokenizer: Any, classes: Sequence[str], size: int) -> npt.NDArray[np.bool_]:
    """Find the terms of some classes.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The tokenizer.
    classes : sequence of {"special", "stop words", "punctuation"}
        The classes.
    size : int
        The number of terms.

    Returns
    -------
    bool array ``[size]``
        True for a term of a class.
    """
    silent = np.zeros(size, np.bool_)
    for token, term in tokenizer.get_vocab().items():
        plain = token.removeprefix("##")
        if "special" in classes and token.startswith("[") and token.endswith("]") and len(token) > 2:
            silent[term] = True
        if "stop words" in classes and token in STOP_WORDS:
            silent[term] = True
        if "punctuation" in classes and not any(c.isalnum() or c not in _SENTENCE_PUNCTUATION for c in plain):
            silent[term] = True
        # Dashes, quotation marks, bullets and the like outside ASCII.
        if "punctuation" in classes and len(plain) == 1 and ord(plain) > 127 and not plain.isalnum():
            silent[term] = True
    return silent


def whole_words(tokenizer: Any) -> list[str]:
    """List the words of at least four ASCII letters in a vocabulary, without function words.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The tokenizer.

    Returns
    -------
    list of str
        The words, sorted.
    """
    words = (token for token in tokenizer.get_vocab() if len(token) > 3 and token.isascii() and token.isalpha())
    return sorted(word for word in words if word.lower() not in STOP_WORDS)


class Texts:
    """Texts to token ids with the tokenizer of a checkpoint directory."""

    def __init__(self, directory: str) -> None:
        from tokenizers import Tokenizer

        if not Path(directory).is_dir():
            raise InputError(f"{directory} is not a directory; download the checkpoint there first")
        path = Path(directory) / "tokenizer.json"
        if not path.is_file():
            raise InputError(f"{directory} has no tokenizer.json")
        self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def ids(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Tokenize texts.

        Parameters
        ----------
        texts : sequence of str
            The texts.
        max_length : int
            The most tokens of a text, special ones included.

        Returns
        -------
        list of list of int
            The token ids.
        """
        self.tokenizer.enable_truncation(max_length)
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]


def inverse_document_frequency(texts: Sequence[Sequence[int]], size: int) -> Tensor:
    """Compute ``ln(1 + (N - df + 0.5) / (df + 0.5))`` of each term.

    Parameters
    ----------
    texts : sequence of sequence of int
        The token ids of each text.
    size : int
        The number of terms.

    Returns
    -------
    float32 tensor ``[size]``
        The inverse document frequencies.
    """
    df = torch.zeros(size)
    for text in texts:
        df[torch.tensor(sorted(set(text)))] += 1
    return torch.log1p((len(texts) - df + 0.5) / (df + 0.5))
