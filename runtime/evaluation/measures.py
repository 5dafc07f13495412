"""Measures of runs against judgements, by ir-measures, and a test of whether two runs differ by more than chance."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, MissingExtraError
from . import DEFAULT_MEASURES

WORKING = "nDCG@10 RR@10 R@100 P@10 AP Success@5"  # some that need nothing but judgements
ROUNDS = 100_000  # random assignments of signs
_EXACT = 16  # up to this many queries, all assignments are tried
_TOGETHER = 256
_SEED = 0

Ranked = Mapping[str, Sequence[str]]  # query id -> document ids, best first
Judged = Mapping[str, Mapping[str, int]]


def parse_measures(names: str) -> list[Any]:
    """Parse names of measures.

    Parameters
    ----------
    names
        Names of ir-measures such as ``nDCG@10``, separated by white space.

    Returns
    -------
    list of ir_measures.Measure
        At least one measure.

    Raises
    ------
    MissingExtraError
        If ir-measures is not installed.
    InputError
        For an unknown measure or a cutoff below 1, or if no measure is named.
    """
    try:
        import ir_measures
    except ModuleNotFoundError:
        raise MissingExtraError("splade-edge eval", "eval") from None
    measures = []
    for name in names.split():
        try:
            measure = ir_measures.parse_measure(name)
        except Exception as error:  # noqa: BLE001 - whatever a name makes of it
            raise InputError(f"unknown measure {name!r} ({_reason(error)}); try {DEFAULT_MEASURES!r}") from None
        cutoff = measure.params.get("cutoff", 1)
        if not isinstance(cutoff, int) or cutoff < 1:  # a cutoff of 0 makes the library end the process
            raise InputError(f"{name} has a cutoff of {cutoff!r}; give a whole number of at least 1")
        measures.append(measure)
    if not measures:
        raise InputError(f"no measure is named; try {DEFAULT_MEASURES!r}")
    return measures


def depth_of(measure: Any) -> int | None:
    """How many documents a measure looks at.

    Parameters
    ----------
    measure
        A measure of ir-measures.

    Returns
    -------
    int or None
        Its cutoff; None: all documents.
    """
    cutoff = measure.params.get("cutoff")
    return None if measure.params.get("judged_only") else cutoff


def check_computable(measures: Sequence[Any], qrels: Judged) -> None:
    """Check that the library can compute measures, before any query is searched.

    Parameters
    ----------
    measures
        Measures of ir-measures.
    qrels
        Grades by query id and document id.

    Raises
    ------
    InputError
        If the library cannot compute one of them.
    """
    query, judged = next(iter(qrels.items()))
    for measure in measures:
        try:
            _computed([measure], {query: judged}, {query: list(judged)[:1]})
        except InputError as error:
            # Some measures divide by 0 for this run of one document.
            if not isinstance(error.__cause__, ArithmeticError):
                raise


def evaluate(measures: Sequence[Any], qrels: Judged, results: Ranked) -> dict[str, float]:
    """Compute the means of measures over all judged queries. A query without results counts as 0.

    Parameters
    ----------
    measures
        Measures of ir-measures.
    qrels
        Grades by query id and document id.
    results
        Document ids by query id, best first.

    Returns
    -------
    dict of str to float
        The mean by the name of each measure.

    Raises
    ------
    InputError
        If the library cannot compute a measure.
    """
    values: dict[Any, float] = {}
    for measure in measures:
        values |= _computed([measure], qrels, results)
    return {str(measure): float(values[measure]) for measure in measures}


def by_query(measure: Any, qrels: Judged, results: Ranked) -> npt.NDArray[np.float64]:
    """Compute a measure of each query.

    Parameters
    ----------
    measure
        A measure of ir-measures.
    qrels
        Grades by query id and document id.
    results
        Document ids by query id, best first.

    Returns
    -------
    ndarray
        float64 ``[queries]`` in the order of ``qrels``; 0 for a query without results.

    Raises
    ------
    InputError
        If the library cannot compute the measure.
    """
    import ir_measures

    values = dict.fromkeys(qrels, 0.0)
    with _library(measure):
        for metric in ir_measures.iter_calc([measure], qrels, _run(results)):
            values[metric.query_id] = float(metric.value)
    return np.array(list(values.values()))


def randomisation_test(differences: npt.NDArray[np.float64]) -> float:
    """The two-sided p of the paired randomisation test that the mean of differences is 0.

    It is the share of random signs that give a mean at least as far from 0. All signs are tried for up to 16 queries,
    else :data:`ROUNDS` random ones, the same each time.

    Source: R. A. Fisher, "The Design of Experiments", 1935; Smucker, Allan & Carterette, "A comparison of statistical
    significance tests for information retrieval evaluation", CIKM 2007.

    Parameters
    ----------
    differences
        float64 ``[queries]``.

    Returns
    -------
    float
        p, above 0 and at most 1.
    """
    queries = differences.size
    observed = abs(float(differences.sum()))
    # sums of the same numbers in another order differ in the last bits
    least = observed - 1e-12 * max(1.0, float(np.abs(differences).sum()))
    if queries <= _EXACT:
        signs = 1.0 - 2.0 * ((np.arange(1 << queries)[:, None] >> np.arange(queries)) & 1)
        return float((np.abs(signs @ differences) >= least).mean())
    rng = np.random.default_rng(_SEED)
    found = 0
    for start in range(0, ROUNDS, _TOGETHER):
        rows = min(_TOGETHER, ROUNDS - start)
        signs = 1.0 - 2.0 * rng.integers(0, 2, (rows, queries), np.int8)
        found += int(np.count_nonzero(np.abs(signs @ differences) >= least))
    return (found + 1) / (ROUNDS + 1)


def _computed(measures: Sequence[Any], qrels: Judged, results: Ranked) -> dict[Any, float]:
    import ir_measures

    with _library(measures[0]):
        return dict(ir_measures.calc_aggregate(measures, qrels, _run(results)))


def _run(results: Ranked) -> dict[str, dict[str, float]]:
    # The tools behind ir-measures order equal scores by document id; ranks as scores keep the order that was returned.
    return {query: {doc: float(-rank) for rank, doc in enumerate(docs)} for query, docs in results.items()}


@contextlib.contextmanager
def _library(measure: Any) -> Iterator[None]:
    """Turn errors of the tools behind ir-measures into InputError, and drop what they write to standard error."""
    try:
        with _quiet():
            yield
    except MemoryError:
        raise
    except Exception as error:  # they raise any type, also for programs that they start
        raise InputError(
            f"ir-measures cannot compute {measure} here{_why(error)}; leave it out, or take one of: {WORKING}"
        ) from error


def _why(error: Exception) -> str:
    """In brackets what the library says, if that is of use: not the command that it ran, nor how it shows an object."""
    text = _reason(error)
    if match := re.fullmatch(r"invalid param (\w+)=<object object .*", text):
        return " (it needs a cutoff, as in P@10)" if match[1] == "cutoff" else f" (it needs a value for {match[1]})"
    if isinstance(error, subprocess.SubprocessError | OSError) or re.search(r"<.* at 0x\w+>", text):
        return " (a program that it runs for that fails)" if not isinstance(error, ValueError) else ""
    return f" ({text})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error of this process and of those that it starts."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _reason(error: Exception) -> str:
    """An error on one line, shortened to 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " …"
