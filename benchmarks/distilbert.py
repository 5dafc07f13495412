"""A DistilBERT with random weights, as a query encoder and as a document encoder: PyTorch, ONNX Runtime, our kernels.

All in one process with one thread, in turns; a figure is the least CPU time over the rounds, of a text of so many
tokens.

Command: ``python -m benchmarks.distilbert``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .report import Report, add_report_arguments, publish, say


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distilbert", description=__doc__)
    parser.add_argument("--tokenizer", default="models/default/query", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--tokens", default="16,128", metavar="N,N")
    parser.add_argument("--rounds", type=int, default=8, metavar="N")
    parser.add_argument("--recipes", default="kernel", metavar="LIST", help="int8 recipes of ONNX (default: kernel)")
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"
    lengths = [int(n) for n in args.tokens.split(",")]
    with tempfile.TemporaryDirectory() as place:
        calls = _encoders(Path(place), args.tokenizer, args.recipes.split(","))
        best: dict[str, dict[int, float]] = {name: dict.fromkeys(lengths, float("inf")) for name in calls}
        for number in range(args.rounds):
            say(f"round {number + 1} of {args.rounds}")
            for length in lengths:
                text = " ".join(["heat"] * (length - 2))
                for name, call in calls.items():
                    start = time.process_time()
                    call(text)
                    best[name][length] = min(best[name][length], time.process_time() - start)
    report = Report(
        "DistilBERT, text to sparse vector, milliseconds (one core, one thread)",
        ["encoder", *(f">{n} tokens" for n in lengths), *(f">x as fast, {n} tokens" for n in lengths)],
        notes=["'x as fast': than PyTorch fp32. Least CPU time over the rounds."],
    )
    first = best["PyTorch fp32"]
    for name, by in best.items():
        times = (f"{1e3 * by[n]:.2f}" for n in lengths)
        report.rows.append([name, *times, *(f"{first[n] / by[n]:.1f}" for n in lengths)])
    publish(args, "distilbert", [report], {"seconds": best})


def _encoders(place: Path, tokenizer: str, recipes: Sequence[str]) -> dict[str, Callable[[str], Any]]:
    import torch
    from splade_edge.export import variants
    from splade_edge.export.job import manifest_of
    from splade_edge.export.recipes import choose_recipe
    from splade_edge.export.texts import SampleTexts
    from splade_edge.models.opening import open_checkpoint
    from splade_edge.models.options import OpenOptions
    from splade_edge.models.reference import ReferenceEncoder
    from splade_edge.models.tokenizing import write_tokenizer
    from splade_edge.runtime import use_kernels
    from splade_edge.runtime.artifact import Artifact
    from splade_edge.runtime.encoder import Encoder
    from splade_edge.runtime.vectors import from_dense
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertForMaskedLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    use_kernels()
    known = AutoTokenizer.from_pretrained(tokenizer)
    model = DistilBertForMaskedLM(DistilBertConfig(vocab_size=len(known)))
    with torch.no_grad():  # about one term in two hundred is active
        model.get_output_embeddings().bias.fill_(-1.5)
    model.save_pretrained(place / "c")
    known.save_pretrained(place / "c")
    say("tracing")
    checkpoint = open_checkpoint(str(place / "c"), options=OpenOptions(family="splade"))
    write_tokenizer(checkpoint.tokenizer, place / "tokenizer.json")
    some = SampleTexts(("what is heat conduction",), ("heat conduction in composite slabs",))
    source = variants.trace(checkpoint, place / "onnx/fp32.onnx", some)
    written = [variants.write_fp32(source, place, "onnx")]
    for name in recipes:
        say(f"writing {name}")
        written.append(variants.write_int8(choose_recipe("onnx", "max", name), source, place, name))
    artifact = Artifact(place, manifest_of(checkpoint, place, written))
    reference = ReferenceEncoder(checkpoint)
    calls: dict[str, Callable[[str], Any]] = {"PyTorch fp32": lambda text: from_dense(reference.encode([text])[0])}
    for variant in written:
        name = f"{variant.backend} {variant.precision}" + (f" ({variant.recipe})" if variant.recipe else "")
        calls[name] = Encoder(artifact, variant, 1).encode_document
    return calls


if __name__ == "__main__":
    main()
