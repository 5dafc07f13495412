"""What ``--recipe auto`` reports: every recipe that was tried, what it cost, and why it was taken or not."""

from __future__ import annotations

import msgspec

from ...runtime.artifact import Backend, Role


class SetDifference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """nDCG@10 on one set: of float32, and the mean paired difference from it with its 95 % interval."""

    fp32: float
    difference: float
    low: float
    high: float


class Ranked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a recipe ranks, end to end with 8-bit impacts, beside float32 with exact weights.

    ``pooled``: mean difference of nDCG@10 over the queries of all judged sets, None without one, and its 95 % interval.
    ``overlap``: mean rank-biased overlap (p = 0.9) with float32 over all queries.
    """

    sets: dict[str, SetDifference]
    pooled: float | None
    overlap: float
    pooled_interval: tuple[float, float] | None = None


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One recipe for one encoder.

    ``cosine_mean``, ``top_terms_overlap`` and ``ranking_overlap``: as in a parity table. ``milliseconds``: one thread,
    by length in tokens; ``cost``: the mean of their ratios to float32. ``ranked`` is None where ranking was not worth
    its time; ``verdict`` says why.
    """

    role: Role
    backend: Backend
    recipe: str
    isa: str
    cosine_mean: float
    top_terms_overlap: float
    ranking_overlap: float
    milliseconds: dict[str, float]
    cost: float
    megabytes: float
    ranked: Ranked | None
    verdict: str

    @property
    def chosen(self) -> bool:
        """Whether the artifact has this graph."""
        return self.verdict.startswith("chosen")


class EvaluationSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sample of a retrieval set that rankings were compared on."""

    name: str
    queries: int
    documents: int
    judged: bool


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole search: its limits, its sets, and every trial."""

    max_ndcg_drop: float
    least_set_difference: float
    least_overlap: float
    sets: list[EvaluationSet]
    trials: list[Trial]

    def of(self, role: Role) -> Choice:
        """The part of the search that is about one encoder.

        Parameters
        ----------
        role : {"query", "document", "both"}
            The encoder.

        Returns
        -------
        Choice
            The same limits and sets, with this encoder's trials alone.
        """
        return msgspec.structs.replace(self, trials=[trial for trial in self.trials if trial.role == role])

    def without_int8(self) -> list[tuple[Role, Backend]]:
        """Encoders and backends for which nothing was chosen."""
        tried = dict.fromkeys((t.role, t.backend) for t in self.trials)
        chosen = {(t.role, t.backend) for t in self.trials if t.chosen}
        return [key for key in tried if key not in chosen]
