"""Text to sparse vector, a document at a time: PyTorch, and each graph of a pair's document encoder.

All in one process with one thread, in turns (see :mod:`turns`), in CPU time. PyTorch runs twice: as the papers write it
(activation of every logit, then the maximum; sentence-transformers does the same), and with the maximum first, which is
the faster way to the same vector.

Command: ``python -m benchmarks.document_encoder PAIR corpus.jsonl``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

from .report import Report, add_report_arguments, publish
from .turns import Call, in_turns, texts_of

_ENGINES = {"onnx": "ONNX", "openvino": "OpenVINO", "kernel": "our kernels,"}
_PYTORCH = "PyTorch fp32"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.document_encoder", description=__doc__)
    parser.add_argument("pair", metavar="PAIR", help="an exported pair, or a document encoder")
    parser.add_argument("corpus", metavar="FILE", help="a corpus, whose words the texts are made of")
    parser.add_argument("--checkpoint", default="models/default", metavar="DIR", help="for PyTorch (%(default)s)")
    parser.add_argument("--tokens", default="128", metavar="N,N", help="lengths of the texts (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--cpu", type=int, metavar="N", help="pin to this core (default: not pinned)")
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    os.environ["HF_HUB_OFFLINE"] = "1"
    lengths = [int(n) for n in args.tokens.split(",")]
    calls, tokens_of = _encoders(args.pair, args.checkpoint)
    words = _words(args.corpus)
    texts = {length: texts_of(words, length, tokens_of, most=4) for length in lengths}
    times = in_turns(calls, texts, args.rounds)
    report = Report(
        "A document to its vector, milliseconds (one core, one thread)",
        ["encoder", *(f">{n} tokens" for n in lengths), *(f">x as fast, {n} tokens" for n in lengths)],
        notes=[f"'x as fast': than {_PYTORCH}. Least CPU time over the rounds, mean over texts."],
    )
    for name, by in times.items():
        row = [name, *(f"{by[n]:.1f}" for n in lengths), *(f"{times[_PYTORCH][n] / by[n]:.2f}" for n in lengths)]
        report.rows.append(row)
    publish(args, "document_encoder", [report], {"milliseconds": times})


def _encoders(pair: str, checkpoint: str) -> tuple[dict[str, Call], Callable[[str], int]]:
    """What to time, and how many tokens a text has."""
    import torch
    from splade_edge.export.pooled_module import pooled_graph
    from splade_edge.models.opening import open_checkpoint
    from splade_edge.models.reference import ReferenceEncoder
    from splade_edge.runtime.artifact import open_artifact
    from splade_edge.runtime.encoder import Encoder
    from splade_edge.runtime.vectors import from_dense
    from splade_edge.runtime.warming import use_kernels

    torch.set_num_threads(1)
    use_kernels()
    opened = open_checkpoint(checkpoint, "document")
    reference, pooled = ReferenceEncoder(opened), pooled_graph(opened)
    artifact = open_artifact(pair, "document")
    encoders = {_name(v.backend, v.precision, v.recipe): Encoder(artifact, v, 1) for v in artifact.manifest.variants}
    tokenizer = next(iter(encoders.values())).tokenizer

    def maximum_first(text: str) -> object:
        with torch.inference_mode():
            ids = torch.tensor([tokenizer.encode(text).ids])
            return from_dense(pooled(ids, torch.ones_like(ids))[0].numpy())

    calls: dict[str, Call] = {
        _PYTORCH: lambda text: from_dense(reference.encode([text])[0]),
        f"{_PYTORCH}, maximum first": maximum_first,
        **{name: encoder.encode_document for name, encoder in encoders.items()},
    }
    return calls, lambda text: len(tokenizer.encode(text).ids)


def _name(backend: str, precision: str, recipe: str) -> str:
    return f"{_ENGINES[backend]} {precision}" + (f" ({recipe})" if recipe else "")


def _words(corpus: str) -> list[str]:
    from splade_edge.runtime.build.corpus import BadLines, read_corpus

    return [word for record in read_corpus([corpus], BadLines("fail")) for word in record.document.text.split()]


if __name__ == "__main__":
    main()
