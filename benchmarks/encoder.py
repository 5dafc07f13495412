"""Text to sparse vector, a query at a time: PyTorch, sentence-transformers, each graph of an index's query encoder, and
the decoder over the terms of the index alone.

All in one process with one thread, in turns: each round takes every text through every encoder, starting with another
one. A text's time is the CPU time of the process, which has one thread: what else the machine does counts least then.
It is the minimum over the rounds, a figure the mean over texts. The bound is that of ``encoder_bound``.

Command: ``python -m benchmarks.encoder INDEX QUERIES --pair PAIR``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .encoder_bound import encoder_shapes, measure_bound
from .report import Report, add_report_arguments, publish, say
from .turns import Call, in_turns, texts_of

_ENGINES = {"onnx": "ONNX", "openvino": "OpenVINO", "kernel": "our kernels,"}
_ST = "sentence-transformers"
_SEARCH = "a search (terms of the index)"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder", description=__doc__)
    parser.add_argument("index", metavar="INDEX", help="an index that carries its query encoder")
    parser.add_argument("queries", metavar="FILE", help="queries.jsonl or TSV, whose words the texts are made of")
    parser.add_argument("--checkpoint", default="models/default/query", metavar="DIR", help="for PyTorch (%(default)s)")
    parser.add_argument("--pair", metavar="DIR", help="an exported pair, for the graphs that the index has not (fp32)")
    parser.add_argument("--tokens", default="8,16,32", metavar="N,N", help="lengths of the texts (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, metavar="N")
    parser.add_argument("--cpu", type=int, metavar="N", help="pin to this core (default: not pinned)")
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    os.environ["HF_HUB_OFFLINE"] = "1"
    lengths = [int(n) for n in args.tokens.split(",")]
    calls, notes, tokens_of, in_use, config = _encoders(args)
    from splade_edge.runtime.evaluation.trec import read_queries

    words = [word for query in read_queries(args.queries) for word in query.text.split()]
    texts = {length: texts_of(words, length, tokens_of) for length in lengths}
    times = in_turns(calls, texts, args.rounds)
    say("the bound")
    bounds = {}
    for what, vocab in (("all terms", config["vocab_size"]), ("terms of the index", in_use)):
        shapes = encoder_shapes(config["layers"], config["hidden"], config["intermediate"], vocab)
        bounds[what] = {length: measure_bound(shapes, length) for length in lengths}
    report = Report(
        "Text to sparse vector, milliseconds (one core, one thread)",
        ["encoder", *(f">{length} tokens" for length in lengths), *(f">x as fast, {n} tokens" for n in lengths)],
        notes=[
            *notes,
            f"{in_use:,} of {config['vocab_size']:,} terms occur in the index. 'x as fast': than the slowest line, "
            "the first. Times are minima over rounds, means over texts.",
        ],
    )
    slowest = next(iter(times.values()))
    for name, by_length in times.items():
        row = [name, *(f"{by_length[n]:.3f}" for n in lengths), *(f"{slowest[n] / by_length[n]:.1f}" for n in lengths)]
        report.rows.append(row)
    for what, by in bounds.items():
        report.rows.append([f"bound, {what}", *(f"{by[n].total:.3f}" for n in lengths), *("" for _ in lengths)])
        report.notes.append(
            f"Bound, {what}: " + "; ".join(
                f"{n} tokens {b.products:.3f} ms of products (vocabulary: {b.fastest}) + {b.reading:.3f} ms of reading"
                for n, b in by.items()
            ) + "."
        )  # fmt: skip
    results: dict[str, Any] = {"milliseconds": times, "bounds": msgspec.to_builtins(bounds), "terms": in_use}
    publish(args, "encoder", [report], results)


def _encoders(args: argparse.Namespace) -> tuple[dict[str, Call], list[str], Callable[[str], int], int, dict[str, int]]:
    """What to time, slowest first; notes; how many tokens a text has; terms in use; the encoder's sizes."""
    import torch
    from splade_edge.models.opening import open_checkpoint
    from splade_edge.models.options import OpenOptions
    from splade_edge.models.reference import ReferenceEncoder
    from splade_edge.runtime import Searcher
    from splade_edge.runtime.encoder import Encoder
    from splade_edge.runtime.vectors import from_dense
    from splade_edge.runtime.warming import use_kernels

    torch.set_num_threads(1)
    use_kernels()
    checkpoint = open_checkpoint(args.checkpoint, role="query", options=OpenOptions())
    reference = ReferenceEncoder(checkpoint)
    searcher = Searcher.open(args.index, threads=1)
    calls: dict[str, Call] = {}
    notes = []
    try:
        calls[_ST] = _sentence_transformers(args.checkpoint)
    except ImportError as error:
        notes.append(f"{_ST} is not installed ({error}).")
    calls["PyTorch fp32"] = lambda text: from_dense(reference.encode([text])[0])
    artifacts = [searcher.encoder.artifact.path, *([Path(args.pair)] if args.pair else [])]
    seen = set()
    for path in artifacts:
        artifact = Encoder.open(path, "query", threads=1).artifact
        for variant in artifact.manifest.variants:
            name = f"{_ENGINES[variant.backend]} {variant.precision}"
            if name in seen:
                continue
            seen.add(name)
            whole = Encoder(artifact, msgspec.structs.replace(variant, decoder=None), threads=1)
            calls[name] = whole.encode_query
            if variant.decoder is not None:
                ours = Encoder(artifact, variant, threads=1)
                calls[f"{name}, our decoder, all terms"] = ours.encode_query
                calls[f"{name}, our decoder, terms of the index"] = ours.restricted(searcher.index.terms).encode_query
    calls[_SEARCH] = searcher.encode_for_search
    config = checkpoint.model.config
    sizes = {
        "layers": config.num_hidden_layers, "hidden": config.hidden_size,
        "intermediate": config.intermediate_size, "vocab_size": checkpoint.vocab_size,
    }  # fmt: skip
    tokenizer = searcher.encoder.tokenizer
    return calls, notes, lambda text: len(tokenizer.encode(text).ids), searcher.index.terms.size, sizes


def _sentence_transformers(checkpoint: str) -> Call:
    """sentence-transformers' own SPLADE encoder with the same weights."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    model = SparseEncoder(modules=[MLMTransformer(checkpoint), SpladePooling("max")], device="cpu")
    return lambda text: model.encode(text, show_progress_bar=False)


if __name__ == "__main__":
    main()
