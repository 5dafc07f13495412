"""int8 chosen by what it does to the ranking of this checkpoint (``--recipe auto``).

For every backend, the query encoder first (it runs at each search), then the document encoder given that choice: all
recipes are made and timed in turns with float32; from the fastest on, each is run over the retrieval sets until one
holds the limits. A recipe holds if, with 8-bit impacts, the mean nDCG@10 over all judged queries is at most
``max_ndcg_drop`` under float32 and no set's paired 95 % interval lies wholly below -0.005. A mean can be near zero by
luck: a ruined document encoder (cosine .888, overlap of rankings .92) came out at -0.0003 on 400 questions. So the
interval of the mean must not reach below 2.5 times the allowed drop either; more queries narrow it. And judgements see
little of what a ranking loses, in a sample of a collection even less: one with an overlap of .96 came out at -0.0002 on
1,900 questions and 1,000 documents of each set, and at -0.0020 on 12,000 others and whole collections; one of .97 at
+0.0008 and -0.0006. So a rank-biased overlap with float32 is asked too, and of a set without judgements nothing else.
Where a recipe for CPUs with VNNI is chosen, one for all others is chosen beside it.

All but the times depend on the input alone. Recipes within 5 % of the fastest that holds count as equally fast, and
of those at most twice as large as the smallest, the one whose vectors are nearest to float32 is taken: the noise of
timing seldom decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...models.layout import SIDES
from ...runtime.artifact import Artifact, Backend, Role, Side, Variant, variant_files
from ...runtime.build.indexing import join_title
from ...runtime.cpu import supports
from ...runtime.encoder import Encoder
from ...runtime.errors import ArtifactError, ExportError, ParityError
from ...runtime.vectors import SparseBatch
from ..parity import GraphParity, Reference, measure
from ..recipes import Recipe, recipes_for
from ..source import QuantizationSource
from ..variants import write_int8
from .latency import milliseconds
from .ranking import F64, Collection, Ranking, bootstrap_interval, ndcg, rank_biased_overlap
from .report import Choice, EvaluationSet, Ranked, SetDifference, Trial
from .retrieval_sets import RetrievalSet
from .vector_cache import encoder_cache

LEAST_SET_DIFFERENCE = -0.005
# How much overlap with float32's rankings may be lost, in allowed drops: 0.03 of a drop of 0.002. 8-bit impacts alone
# lose some, and half of it is a ruin whatever is allowed.
_OVERLAP_PER_DROP = 15
_OVERLAP = (0.5, 0.99)
# Where nothing else is measured.
LEAST_OVERLAP_UNJUDGED = 0.97
# How far the interval of the mean may reach below zero, in allowed drops.
_REACH = 2.5
# Ranks the bundled paragraphs too differently to be worth a run over the retrieval sets.
_LEAST_RANKING_OVERLAP = 0.9
_EQUALLY_FAST = 1.05
# Runs one step under a name, for progress.
Run = Callable[[str, Callable[[], Any]], Any]


class Graph(NamedTuple):
    """A graph on disk. It is loaded where it is run and let go then: all recipes of a large encoder at once would take
    many gigabytes.
    """

    artifact: Artifact
    variant: Variant


@dataclass
class Candidate:
    """A recipe that was made, timed and perhaps ranked; without a ``graph`` it failed, and ``verdict`` says how."""

    recipe: Recipe
    graph: Graph | None = None
    parity: GraphParity | Any = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    cost: float = np.inf
    size: int = 0
    ranked: Ranked | None = None
    verdict: str = ""


@dataclass
class Contender:
    """An encoder to choose recipes for, with its float32 graph of one backend.

    ``place``: a directory with its tokenizer where graphs are tried. ``artifact``: what is to be written.
    """

    role: Role
    backend: Backend
    pooling: str
    source: QuantizationSource
    place: Path
    artifact: Artifact
    fp32: Encoder
    reference: Reference
    counterpart: Reference | None


class Chooser:
    """Chooses recipes for the sides of one pair, or for one encoder that serves both, backend by backend."""

    def __init__(self, sets: Sequence[RetrievalSet], *, max_ndcg_drop: float, cache: Path | None, run: Run) -> None:
        self._sets = sets
        self._max_drop = max_ndcg_drop
        self._cache = cache
        self._run = run
        self._trials: list[Trial] = []
        self._vectors: dict[tuple[int, Path, Side], SparseBatch] = {}

    @property
    def least_overlap(self) -> float:
        """The rank-biased overlap with float32 that a recipe needs."""
        if not all(data.qrels for data in self._sets):
            return LEAST_OVERLAP_UNJUDGED
        low, high = _OVERLAP
        return min(high, max(low, 1 - _OVERLAP_PER_DROP * self._max_drop))

    def choice(self) -> Choice:
        """What was tried so far."""
        sets = [EvaluationSet(s.name, len(s.queries), len(s.documents), bool(s.qrels)) for s in self._sets]
        return Choice(self._max_drop, LEAST_SET_DIFFERENCE, self.least_overlap, sets, list(self._trials))

    def choose(self, contenders: Sequence[Contender], sides: dict[Side, Graph]) -> dict[Role, list[Candidate]]:
        """Choose the recipes to ship for each encoder on one backend.

        Parameters
        ----------
        contenders : sequence of Contender
            The encoders, the query side first.
        sides : dict of str to Graph
            The float32 graph (or the table) of each side.

        Returns
        -------
        dict of str to list of Candidate
            For each role: none, one, or one for CPUs with VNNI and one for all others.
        """
        chosen: dict[Role, list[Candidate]] = {}
        now, anywhere = dict(sides), dict(sides)  # with what was chosen so far; the same for CPUs without VNNI
        for contender in contenders:  # the query side comes first
            candidates = self._candidates(contender)
            best = self._fastest_that_holds(contender, candidates, sides, now, "chosen")
            plain = best
            if best is not None and best.recipe.isa != "any":
                others = [c for c in candidates if c.recipe.isa == "any"]
                plain = self._fastest_that_holds(contender, others, sides, anywhere, "chosen for CPUs without VNNI")
            for side in _sides(contender.role):
                now[side] = best.graph if best and best.graph else now[side]
                anywhere[side] = plain.graph if plain and plain.graph else anywhere[side]
            chosen[contender.role] = list({id(c): c for c in (best, plain) if c is not None}.values())
            self._trials += [_trial(contender, c) for c in candidates]
        return chosen

    def _candidates(self, contender: Contender) -> list[Candidate]:
        """Every recipe of the backend, made and timed, fastest first."""
        name = f"{contender.role} {contender.backend}"
        candidates = [Candidate(recipe) for recipe in recipes_for(contender.backend, contender.pooling)]
        for candidate in candidates:
            self._run(f"{name}: trying {candidate.recipe.name}", partial(self._make, contender, candidate))
        return sorted(candidates, key=lambda c: (c.cost, c.recipe.name))

    def _make(self, contender: Contender, candidate: Candidate) -> None:
        recipe = candidate.recipe
        if not supports(recipe.isa):
            candidate.verdict = "not tried: needs a CPU with VNNI"
            return
        try:
            variant = write_int8(recipe, contender.source, contender.place, recipe.name)
            candidate.size = sum((contender.place / name).stat().st_size for name in variant_files(variant))
            graph = Graph(Artifact(contender.place, contender.artifact.manifest), variant)
            encoder = Encoder(*graph, threads=1)
            candidate.parity = measure(encoder, contender.reference, contender.counterpart)
            times = milliseconds({"": contender.fp32, recipe.name: encoder}, _sides(contender.role))
            candidate.milliseconds = times[recipe.name]
            ratios = [spent / times[""][length] for length, spent in candidate.milliseconds.items()]
            candidate.cost = float(np.mean(ratios))
            candidate.graph = graph
        except (ExportError, ParityError, ArtifactError) as error:
            candidate.verdict = f"failed: {str(error).partition(';')[0]}"

    def _fastest_that_holds(
        self,
        contender: Contender,
        candidates: Sequence[Candidate],
        exact: dict[Side, Graph],
        now: dict[Side, Graph],
        verdict: str,
    ) -> Candidate | None:
        """The fastest of ``candidates`` (in order of cost) that holds beside ``now``; says of all why or why not."""
        holding: list[Candidate] = []
        for candidate in candidates:
            if candidate.graph is None:
                continue
            if candidate.cost >= 1:
                candidate.verdict = "not ranked: no faster than float32"
            elif holding and candidate.cost > holding[0].cost * _EQUALLY_FAST:
                candidate.verdict = "not ranked: slower than the chosen one"
            elif candidate.parity.ranking_overlap < _LEAST_RANKING_OVERLAP:
                share = candidate.parity.ranking_overlap
                candidate.verdict = f"not ranked: keeps {share:.0%} of the ten best of the parity paragraphs"
            else:
                what = f"{contender.role} {contender.backend}: ranking with {candidate.recipe.name}"
                sides = {**now, **dict.fromkeys(_sides(contender.role), candidate.graph)}
                candidate.ranked = self._run(what, partial(self._rank, sides, exact))
                problem = self._problem(candidate.ranked)
                if problem:
                    candidate.verdict = f"rejected: {problem}"
                else:
                    candidate.verdict = "holds; as fast as the chosen one, and larger or less near to float32"
                    holding.append(candidate)
        if not holding:
            return None
        small = [c for c in holding if c.size <= 2 * min(other.size for other in holding)]
        best = max(small, key=lambda c: (c.parity.cosine_mean, c.recipe.name))
        best.verdict = verdict
        return best

    def _rank(self, sides: dict[Side, Graph], exact: dict[Side, Graph]) -> Ranked:
        """All sets, or up to the first that alone is enough to reject; the mean over all is None then."""
        sets: dict[str, SetDifference] = {}
        pooled: list[F64] = []
        overlaps: list[float] = []
        for place, data in enumerate(self._sets):
            reference = self._rankings_of(place, exact, impacts=False)
            found = self._rankings_of(place, sides, impacts=True)
            overlaps += [rank_biased_overlap(a, b) for a, b in zip(reference, found, strict=True)]
            if data.qrels:
                before, after = _ndcg(data, reference), _ndcg(data, found)
                sets[data.name] = SetDifference(
                    float(before.mean()), float((after - before).mean()), *bootstrap_interval(after - before)
                )
                pooled.append(after - before)
                if sets[data.name].high < LEAST_SET_DIFFERENCE:
                    pooled.clear()
                    break
        overlap = float(np.mean(overlaps))
        if not pooled:
            return Ranked(sets, None, overlap)
        differences = np.concatenate(pooled)
        return Ranked(sets, float(differences.mean()), overlap, bootstrap_interval(differences))

    def _problem(self, ranked: Ranked) -> str:
        """What a ranking violates, "" if nothing."""
        for name, found in ranked.sets.items():
            if found.high < LEAST_SET_DIFFERENCE:
                return f"nDCG@10 {found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}] on {name}"
        if ranked.pooled is not None and ranked.pooled < -self._max_drop:
            return f"nDCG@10 {ranked.pooled:+.4f} over all queries, at most -{self._max_drop:g} is allowed"
        reach = _REACH * self._max_drop
        if ranked.pooled_interval is not None and ranked.pooled_interval[0] < -reach:
            low, high = ranked.pooled_interval
            return f"nDCG@10 {ranked.pooled:+.4f} [{low:+.4f}, {high:+.4f}] over all queries may be under -{reach:g}"
        if ranked.overlap < self.least_overlap:
            return f"rank-biased overlap {ranked.overlap:.3f} with float32, at least {self.least_overlap:g} is asked"
        return ""

    def _rankings_of(self, place: int, sides: dict[Side, Graph], *, impacts: bool) -> list[Ranking]:
        queries, documents = (self._encoded(place, side, sides[side]) for side in SIDES)
        collection = Collection(documents, impacts=impacts, idf=sides["query"].artifact.manifest.query_idf)
        return [collection.best(query) for query in queries]

    def _encoded(self, place: int, side: Side, graph: Graph) -> SparseBatch:
        key = (place, graph.artifact.file(graph.variant.path), side)
        if key not in self._vectors:
            data = self._sets[place]
            texts = (
                [query.text for query in data.queries]
                if side == "query"
                else [join_title(document.title, document.text) for document in data.documents]
            )
            # Timing is a matter of one thread, going through a set is not.
            encoder = Encoder(*graph, side=side)
            found = (
                encoder_cache(self._cache, encoder, side).encode(texts, lambda chunk: list(encoder.encode(chunk)))
                if self._cache
                else encoder.encode(texts)
            )
            self._vectors[key] = SparseBatch.stack([encoded.vector for encoded in found])
        return self._vectors[key]


def _sides(role: Role) -> tuple[Side, ...]:
    return ("query", "document") if role == "both" else (role,)


def _ndcg(data: RetrievalSet, rankings: Sequence[Ranking]) -> F64:
    ids = [document.id for document in data.documents]
    return np.array(
        [
            ndcg([ids[i] for i in ranking[:10]], data.qrels[query.id])
            for query, ranking in zip(data.queries, rankings, strict=True)
        ]
    )


def _trial(contender: Contender, candidate: Candidate) -> Trial:
    recipe, parity = candidate.recipe, candidate.parity
    return Trial(
        role=contender.role,
        backend=contender.backend,
        recipe=recipe.name,
        isa=recipe.isa,
        cosine_mean=parity.cosine_mean if parity else 0.0,
        top_terms_overlap=parity.top_terms_overlap if parity else 0.0,
        ranking_overlap=parity.ranking_overlap if parity else 0.0,
        milliseconds={length: round(spent, 3) for length, spent in candidate.milliseconds.items()},
        cost=round(candidate.cost, 3) if np.isfinite(candidate.cost) else 0.0,
        megabytes=round(candidate.size / 1e6, 1),
        ranked=candidate.ranked,
        verdict=candidate.verdict or "not ranked",
    )
