"""Differences of several retrieval sets taken together.

Not run by itself. Used by :mod:`benchmarks.quality`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .report import Report
from .retrieval_sets import F64, bootstrap_interval


def pool(differences: dict[str, dict[str, F64]]) -> dict[str, Any]:
    """Take the differences of several sets together.

    Parameters
    ----------
    differences : dict of str to dict of str to float64 array ``[queries]``
        The difference of each query, by set and system.

    Returns
    -------
    dict of str to object
        Of each system that ran on all sets: the mean over their queries with its interval, and the mean of the sets'
        means.
    """
    of_all = [system for system in next(iter(differences.values())) if all(system in d for d in differences.values())]
    pooled = {}
    for system in of_all:
        parts = [found[system] for found in differences.values()]
        queries = np.concatenate(parts)
        over_sets = float(np.mean([part.mean() for part in parts]))
        pooled[system] = {
            "queries": queries.size, "difference": [float(queries.mean()), *bootstrap_interval(queries)],
            "mean of sets": over_sets,
        }  # fmt: skip
    return pooled


def pooled_report(pooled: dict[str, Any]) -> Report:
    """The table of :func:`pool`.

    Parameters
    ----------
    pooled : dict
        What :func:`pool` returned.

    Returns
    -------
    Report
        The table.
    """
    report = Report("nDCG@10, all sets pooled", ["system", ">queries", ">Δ [95 %]", ">mean of sets"])
    for name, entry in pooled.items():
        difference = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*entry["difference"])
        report.rows.append([name, f"{entry['queries']:,}", difference, f"{entry['mean of sets']:+.4f}"])
    return report
