"""How rare terms are, as a factor of query weights.

What a pair learns from some tens of thousands of queries leaves rare terms too light for other collections: it has met
few of them. Their inverse document frequency is known without any query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...runtime import idf
from .collections import Collection
from .side import Side
from .vocabulary import Texts, inverse_document_frequency

F32 = npt.NDArray[np.float32]

# Documents of a collection whose words are counted, and whose vectors are.
_TEXTS, _VECTORS = 20_000, 500
# A term in one of so many documents has the factor 1. Most have less: larger weights than they have are hard to learn,
# since a weight grows with the logarithm of a logit.
_RARE = 1000


def rarity(collections: Sequence[Collection], tokens: Texts, size: int, document: Side | None) -> F32:
    """Inverse document frequency of each term, relative to a term in 0.1 % of the documents.

    It is ``ln(1 + (N - df + 0.5) / (df + 0.5))``, the mean over the collections that are trained on.

    Parameters
    ----------
    collections : sequence of Collection
        The collections.
    tokens : Texts
        The tokenizer.
    size : int
        The number of terms.
    document : Side or None
        An encoder. With it the mean is taken of the words' frequencies and those of its vectors' terms.

    Returns
    -------
    float32 array ``[size]``
        The factors; 1 for a term in 0.1 % of the documents.
    """
    rng = np.random.default_rng(0)
    found = []
    for collection in (c for c in collections if c.settings.weight):
        chosen = [collection.documents[i] for i in rng.permutation(len(collection.documents))[:_TEXTS]]
        words = inverse_document_frequency(tokens.ids(chosen, 512), size).numpy()
        if document is not None:
            vectors = document.encode(document.ids(chosen[:_VECTORS]), chunk=0, bf16=False)
            df = (vectors > 0).sum(dim=0).cpu().numpy()
            words = (words + idf.inverse_document_frequency(df, len(vectors))) / 2
        found.append(words / np.log(_RARE))
    return np.asarray(np.mean(found, axis=0), np.float32)
