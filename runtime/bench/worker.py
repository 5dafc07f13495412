"""A process that opens one encoder or one index and times it. Its memory is its own, and several can take turns.

Commands and answers are JSON, one line each, on standard input and output: ``{"do": NAME, …}``, answered by
``{"answer": …}`` or ``{"error": message, "exit_code": N}``. The process ends when its input ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice, product
from typing import Any

from ..artifact import Side
from ..encoder import Encoder
from ..errors import InputError, SpladeEdgeError
from ..searcher import Searcher
from ..warming import use_kernels
from .approximation import measure_approximation
from .machine import memory_mb


class Bench:
    """The commands. Each method is one, and its parameters are the command's. Answers are JSON values."""

    def __init__(self) -> None:
        self._encoder: Encoder | None = None
        self._side: Side = "query"
        self._searcher: Searcher | None = None

    def open_encoder(self, path: str, side: Side, backend: str, precision: str, threads: int) -> dict[str, Any]:
        """Load a graph.

        Parameters
        ----------
        path
            The artifact.
        side
            ``query`` or ``document``.
        backend, precision
            The graph.
        threads
            Threads of the encoder.

        Returns
        -------
        dict
            ``seconds`` from the files to a session.
        """
        self._side = side
        start = time.perf_counter()
        self._encoder = Encoder.open(
            path, side, backend=backend, precision=precision, threads=threads  # type: ignore[arg-type]
        )  # fmt: skip
        return {"seconds": time.perf_counter() - start}

    def open_index(
        self, path: str, query_encoder: str | None, backend: str | None, precision: str | None, threads: int
    ) -> dict[str, Any]:
        """Open an index and load its query encoder.

        Parameters
        ----------
        path
            The index directory.
        query_encoder
            Another query encoder; None: the index's own.
        backend, precision
            The graph of the query encoder; None: the default.
        threads
            Threads of the encoder.

        Returns
        -------
        dict
            ``seconds``, the graph's ``backend`` and ``precision``, and the number of ``documents``.
        """
        self._searcher = self._encoder = None
        start = time.perf_counter()
        self._searcher = Searcher.open(
            path, query_encoder=query_encoder, backend=backend, precision=precision, threads=threads  # type: ignore[arg-type]
        )  # fmt: skip
        self._encoder, self._side = self._searcher.encoder, "query"
        variant = self._encoder.variant
        return {
            "seconds": time.perf_counter() - start, "backend": variant.backend, "precision": variant.precision,
            "documents": len(self._searcher.index),
        }  # fmt: skip

    def encode(self, texts: list[str]) -> dict[str, Any]:
        """Encode texts one at a time.

        Parameters
        ----------
        texts
            The texts.

        Returns
        -------
        dict
            ``seconds`` and ``tokens`` of each text.
        """
        assert self._encoder is not None
        seconds, tokens = [], []
        for text in texts:
            start = time.perf_counter()
            [encoded] = self._encoder.encode([text], self._side)
            seconds.append(time.perf_counter() - start)
            tokens.append(encoded.tokens)
        return {"seconds": seconds, "tokens": tokens}

    def encode_all(self, texts: list[str]) -> dict[str, Any]:
        """Encode texts in batches, as indexing does.

        Parameters
        ----------
        texts
            The texts.

        Returns
        -------
        dict
            ``seconds`` and ``tokens`` of all texts together.
        """
        assert self._encoder is not None
        start = time.perf_counter()
        tokens = sum(encoded.tokens for encoded in self._encoder.encode(texts, self._side))
        return {"seconds": time.perf_counter() - start, "tokens": tokens}

    def search(self, texts: list[str], ks: Sequence[int]) -> dict[str, Any]:
        """Encode, score and read the documents, for each text and each k.

        All three are done each time, because what encoding leaves in the CPU's caches changes the time of scoring.

        Parameters
        ----------
        texts
            Texts of queries.
        ks
            Numbers of results.

        Returns
        -------
        dict
            Seconds to ``encode``, to ``score`` and ``read`` and of the ``whole`` by k; ``tokens`` and ``terms``.
        """
        assert self._searcher is not None
        index, tokenizer = self._searcher.index, self._searcher.encoder.tokenizer_of("query")
        encode, tokens, terms = [], [], []
        score: dict[int, list[float]] = {k: [] for k in ks}
        read: dict[int, list[float]] = {k: [] for k in ks}
        whole: dict[int, list[float]] = {k: [] for k in ks}
        for text, k in product(texts, ks):
            start = time.perf_counter()
            vector = self._searcher.encode_for_search(text)
            encoded = time.perf_counter()
            ordinals, _, _ = index.search_units(vector, k)
            scored = time.perf_counter()
            index.documents(ordinals)
            done = time.perf_counter()
            encode.append(encoded - start)
            score[k].append(scored - encoded)
            read[k].append(done - scored)
            whole[k].append(done - start)
            tokens.append(len(tokenizer.encode(text).ids))
            terms.append(len(vector.indices))
        return {"encode": encode, "score": score, "read": read, "whole": whole, "tokens": tokens, "terms": terms}

    def approximate(self, texts: list[str], k: int, shares: Sequence[float]) -> dict[str, Any]:
        """Compare approximate search with the exact one.

        Parameters
        ----------
        texts
            Texts of queries.
        k
            Results of a query.
        shares
            Pruning factors.

        Returns
        -------
        dict
            By pruning factor the fields of :class:`.approximation.Approximation`; empty if no query finds a document.
        """
        assert self._searcher is not None
        queries = [self._searcher.encode_for_search(text) for text in texts]
        found: dict[str, Any] = {}
        with contextlib.suppress(InputError):
            for share in shares:
                found[str(share)] = dataclasses.asdict(measure_approximation(self._searcher.index, queries, k, share))
        return found

    def serve(self, texts: list[str], k: int, clients: int, seconds: float) -> dict[str, Any]:
        """Search from several threads at once.

        Parameters
        ----------
        texts
            Texts of queries.
        k
            Results of a query.
        clients
            Threads.
        seconds
            About how long.

        Returns
        -------
        dict
            ``queries`` that were answered, and ``seconds``.
        """
        assert self._searcher is not None
        searcher = self._searcher
        end = time.perf_counter() + seconds

        def client(first: int) -> int:
            answered = 0
            for text in islice(cycle(texts), first, None):
                searcher.search(text, k)
                answered += 1
                if time.perf_counter() >= end:
                    break
            return answered

        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            answered = sum(pool.map(client, range(clients)))
        return {"queries": answered, "seconds": time.perf_counter() - start}

    def memory(self) -> dict[str, float]:
        """Resident memory of this process.

        Returns
        -------
        dict
            ``now`` and at ``most``, in MB (10^6 bytes).
        """
        now, most = memory_mb()
        return {"now": now, "most": most}


def main() -> None:
    """Answer commands until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of an engine must not mix with the answers
    use_kernels()
    bench = Bench()
    for line in sys.stdin.buffer:
        command: dict[str, Any] = json.loads(line)
        method: Callable[..., dict[str, Any]] = getattr(bench, command.pop("do"))
        try:
            reply: dict[str, Any] = {"answer": method(**command)}
        except SpladeEdgeError as error:
            reply = {"error": str(error), "exit_code": error.exit_code}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
