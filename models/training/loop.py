"""The training loop: from a run file to checkpoints of encoders, resumable at any step."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ...runtime.errors import InputError
from ...runtime.files import write_file_durably
from .checkpoints import TrainingState, identity_of, read_checkpoint, read_state, write_checkpoint
from .collections import Collection, read_collection
from .evaluation import Probe, make_probes, ndcg
from .fitting import Fitting
from .imitation import Imitation
from .middle import MiddleTraining
from .objective import Regularizer
from .output import PAIR_DIRECTORY, write_pair
from .retrieval import Retrieval
from .settings import RunFile
from .side import Side

LOG_FILE = "log.jsonl"
_CHECKPOINT = "checkpoint"
# Documents that new heads are fitted on.
_FIT_TEXTS = 2000
# What comes before the first step, by objective.
_PREPARES = {
    "retrieval": "mining negatives and preparing the encoders",
    "mlm": "preparing the encoder",
    "imitation": "preparing the encoders",
    "index": "reading the indexes and preparing the encoder",
}

Report = Callable[[int, Mapping[str, float]], None]


class Objective(Protocol):
    """What a run minimizes."""

    @property
    def query(self) -> Side:
        """The encoder of queries."""
        ...

    @property
    def document(self) -> Side | None:
        """The encoder of documents; None where the run has nothing to search."""
        ...

    @property
    def sides(self) -> Mapping[str, Side]:
        """The encoders by the name they are written under."""
        ...

    @property
    def negatives(self) -> Sequence[npt.NDArray[np.int64] | None]:
        """Mined documents of each collection, as the sampler takes them."""
        ...

    @property
    def regularizers(self) -> tuple[Regularizer, Regularizer]:
        """Of queries and of documents."""
        ...

    def backward(self, step: int, part: int) -> dict[str, float]:
        """Accumulate the gradients of one part of a step.

        Parameters
        ----------
        step : int
            The step, counted from 0.
        part : int
            The part of the step, counted from 0.

        Returns
        -------
        dict of str to float
            The losses and counts of the part.
        """
        ...

    def observe(self, step: int, totals: dict[str, float]) -> None:
        """Steer the regularizers by what a step saw.

        Parameters
        ----------
        step : int
            The step, counted from 0.
        totals : dict of str to float
            The step's losses and counts.
        """
        ...


class Run:
    """A run in the directory ``output``: prepared by the constructor, trained by :meth:`train`.

    ``output`` gets ``log.jsonl``, ``checkpoint/`` (the state after some step) and ``pair/`` (the encoders at that
    step). ``cache`` keeps mined negatives and teacher embeddings, which several runs on the same sets can share.
    ``phase`` is told what is being prepared. Raises InputError, before anything that takes long, if ``output`` holds
    the checkpoint of another run.
    """

    def __init__(
        self, run: RunFile, output: Path, cache: Path, phase: Callable[[str], None] = lambda what: None
    ) -> None:
        self.run = run
        self.output = output
        self.collections = []
        for settings in run.sets:
            phase(f"reading {Path(settings.path).name}")
            self.collections.append(read_collection(settings))
        self.identity = identity_of(run, self.collections)
        read_state(output / _CHECKPOINT, self.identity)
        phase(_PREPARES[run.objective])
        texts = _texts_to_fit(self.collections)
        self.objective: Objective
        if run.objective == "mlm":
            self.objective = MiddleTraining(run, self.collections, texts)
        elif run.objective == "imitation":
            self.objective = Imitation(run, self.collections, texts)
        elif run.objective == "index":
            self.objective = Fitting(run, self.collections, texts, cache)
        else:
            self.objective = Retrieval(run, self.collections, texts, cache)
        self.models = {name: side.encoder for name, side in self.objective.sides.items()}
        self._parameters = [p for m in self.models.values() for p in m.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            _groups(self._parameters, run.training.weight_decay), lr=run.training.learning_rate
        )
        self._probes: list[Probe] | None = None
        self.step = 0

    def resume(self) -> int:
        """Go on from the newest checkpoint, if there is one. Returns the steps done. Raises InputError."""
        state = read_checkpoint(self.output / _CHECKPOINT, self.identity, self.models, self.optimizer)
        if state is not None:
            self.step = state.step
            for regularizer, level in zip(self.objective.regularizers, state.levels, strict=True):
                regularizer.level = level
        self._cut_log()
        return self.step

    def train(self, report: Report | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the last step.

        Parameters
        ----------
        report : callable, optional
            Told of each step.
        stop : callable
            Asked after each step whether to stop; the state is then kept.
        """
        settings = self.run.training
        self.output.mkdir(parents=True, exist_ok=True)
        with (self.output / LOG_FILE).open("a", encoding="utf-8") as log:
            if self.step == 0 and settings.evaluate_every and (figures := self.evaluate()):
                _log(log, {"step": 0, **figures})
            while self.step < settings.steps:
                started = time.monotonic()
                entry = self._train_step()
                self.step += 1
                entry |= {"step": self.step, "seconds": time.monotonic() - started}
                last, stopping = self.step == settings.steps, stop()
                if settings.evaluate_every and (last or self.step % settings.evaluate_every == 0):
                    entry |= self.evaluate()
                _log(log, entry)
                if last or stopping or self.step % settings.checkpoint_every == 0:
                    self.checkpoint()
                if report:
                    report(self.step, entry)
                if stopping:
                    break

    def checkpoint(self) -> None:
        """Keep the state of the run, and the encoders as they are now. Raises StorageError."""
        levels = tuple(regularizer.level for regularizer in self.objective.regularizers)
        # The encoders first: a kill between the two leaves them newer than the state, which is then reached again.
        write_pair(self.output / PAIR_DIRECTORY, self.objective.sides, {"run": self.run.name, "step": self.step})
        state = TrainingState(self.step, self.identity, (levels[0], levels[1]))
        write_checkpoint(self.output / _CHECKPOINT, state, self.models, self.optimizer)

    def evaluate(self) -> dict[str, float]:
        """nDCG@10 on the probes, and the terms of their texts."""
        if isinstance(self.objective, Fitting):
            return self.objective.evaluate()
        document = self.objective.document
        if document is None:
            return {}
        if self._probes is None:
            documents = self.run.training.evaluation_documents
            self._probes = make_probes(self.collections, self.objective.negatives, documents)
        found: dict[str, float] = {}
        for probe in self._probes:
            value, q, d = ndcg(probe, self.objective.query, document)
            name = probe.collection.name
            found |= {f"ndcg/{name}": value, f"query terms/{name}": q, f"document terms/{name}": d}
        return found

    def _train_step(self) -> dict[str, float]:
        settings = self.run.training
        rate = settings.learning_rate * _rate(self.step, settings.steps, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        totals: dict[str, float] = {"rate": rate}
        for part in range(settings.accumulate):
            for key, value in self.objective.backward(self.step, part).items():
                totals[key] = totals.get(key, 0.0) + value / settings.accumulate
        totals["gradient"] = float(torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip))
        if not math.isfinite(totals["gradient"]) or not math.isfinite(totals["loss"]):
            raise InputError(
                f"step {self.step + 1} of {self.run.name} has a gradient that is not finite; lower learning_rate "
                f"({settings.learning_rate})" + (" or leave bf16 off" if settings.bf16 else "")
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.observe(self.step, totals)
        return totals

    def _cut_log(self) -> None:
        """Drop what was logged after the checkpoint, and a line that a kill cut short."""
        path = self.output / LOG_FILE
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
            write_file_durably(path, "".join(kept if self.step else []).encode())


def _rate(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then linear decay to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


def _groups(parameters: Sequence[torch.nn.Parameter], decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices only."""
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _texts_to_fit(collections: Sequence[Collection]) -> list[str]:
    """Documents of all collections that are trained on, equally many of each."""
    rng = np.random.default_rng(0)
    trained = [c for c in collections if c.settings.weight]
    texts: list[str] = []
    for collection in trained:
        chosen = rng.permutation(len(collection.documents))[: _FIT_TEXTS // len(trained)]
        texts += [collection.documents[number] for number in chosen]
    return texts


def _log(log: IO[str], entry: Mapping[str, float]) -> None:
    log.write(json.dumps({key: float(f"{value:.6g}") for key, value in entry.items()}) + "\n")
    log.flush()
