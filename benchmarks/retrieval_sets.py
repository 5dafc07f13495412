"""How well a ranking answers a retrieval set: the measures of ir-measures, query by query.

Not run by itself. Used by :mod:`benchmarks.pooled`, :mod:`benchmarks.quality`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from splade_edge.export.auto.ranking import DEPTH, bootstrap_interval
from splade_edge.export.auto.retrieval_sets import RetrievalSet, read_set
from splade_edge.runtime.evaluation.measures import by_query, parse_measures

__all__ = ["DEPTH", "F64", "MEASURES", "RetrievalSet", "bootstrap_interval", "measure_run", "read_set"]

MEASURES = ("nDCG@10", "RR@10", "R@100")

F64 = npt.NDArray[np.float64]


def measure_run(data: RetrievalSet, rankings: Sequence[Sequence[str]]) -> dict[str, F64]:
    """Measure rankings with ir-measures, query by query.

    Parameters
    ----------
    data : RetrievalSet
        Its judgements count.
    rankings : sequence of sequence of str
        Document ids for each query of ``data.queries``, best first.

    Returns
    -------
    dict of str to float64 array ``[queries]``
        Each measure for each query; a query without an answer counts as 0.
    """
    qrels = {query.id: data.qrels.get(query.id, {}) for query in data.queries}
    results = {query.id: ranking for query, ranking in zip(data.queries, rankings, strict=True)}
    measures = parse_measures(" ".join(MEASURES))
    return {name: by_query(measure, qrels, results) for name, measure in zip(MEASURES, measures, strict=True)}
