"""``splade-edge train``."""

from __future__ import annotations

import argparse
import signal
import types
from collections.abc import Mapping
from pathlib import Path

from ...runtime.cli.command import positive_int

_EPILOG = """\
A run file names where the encoders start, the retrieval sets (BEIR form) and the settings. models/training/README.md
shows how to write one, models/training/runfile.py describes every key, models/training/runs/ has larger ones: systems
V and VI-BT of the paper, and an ablation.

Stop a run whenever you like (Ctrl-C, kill, a power cut) and give the same command again: it goes on from the last
checkpoint exactly as it would have. DIR gets log.jsonl, curves.png, checkpoint/ and pair/, which `splade-edge export`
takes at any time.

examples:
  splade-edge train my-domain.toml -o runs/my-domain
  splade-edge export runs/my-domain/pair -o my-pair
"""
_LOCK = "splade_edge_train.lock"


class TrainCommand:
    """Thin: reads options, shows progress. A ``Command`` of :mod:`splade_edge.runtime.cli`."""

    help = "train a query and a document encoder on your own retrieval sets"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.description = "Train an Efficient SPLADE pair, or one side of it, as a run file says."
        parser.epilog = _EPILOG
        parser.add_argument("run", type=Path, metavar="RUN.toml", help="the run file")
        parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="the run's directory")
        parser.add_argument(
            "--cache",
            type=Path,
            metavar="DIR",
            help="mined negatives and teacher embeddings; runs on the same sets can share it (default: DIR/cache)",
        )
        parser.add_argument("--threads", type=positive_int, metavar="N", help="threads (default: all CPUs)")

    def run(self, args: argparse.Namespace) -> int:
        """Train; 130 after Ctrl-C, with the state kept."""
        from ...runtime.cli.console import finished, warn, write_out
        from ...runtime.cli.progress import Progress
        from ...runtime.errors import InputError
        from ...runtime.files import storage_errors
        from ...runtime.locking import writer_lock
        from .runfile import read_run_file

        # Refused before PyTorch is loaded, which takes seconds.
        run_file = read_run_file(args.run)
        if args.output.exists() and not args.output.is_dir():
            raise InputError(f"{args.output} exists and is not a directory; choose another --output")
        with storage_errors(args.output):
            args.output.mkdir(parents=True, exist_ok=True)
        import torch

        from .curves import draw_curves
        from .loop import Run

        if args.threads:
            torch.set_num_threads(args.threads)
        share = [0.0]
        interrupted = [False]

        def interrupt(number: int, frame: types.FrameType | None) -> None:
            interrupted[0] = True

        # Two of the same command would write the same log and checkpoints in turns.
        with writer_lock(args.output / _LOCK), Progress("preparing", "step", lambda: share[0]) as bar:

            def phase(what: str) -> None:
                bar.phase(what)
                bar.update(0)

            run = Run(run_file, args.output, args.cache or args.output / "cache", phase)
            done = run.resume()
            if done:
                warn("note", f"going on after step {done:,} of {run_file.training.steps:,}")

            phase(f"training {run_file.name}")

            def report(step: int, entry: Mapping[str, float]) -> None:
                share[0] = step / run_file.training.steps
                bar.phase(f"training {run_file.name}: loss {entry['loss']:.3f}")
                bar.update(step - done)

            before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                run.train(report, lambda: interrupted[0])
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
        draw_curves(args.output)
        if run.step < run_file.training.steps:
            write_out(f"stopped after step {run.step:,}; the same command goes on from there")
            return 130
        with finished(f"the pair is in {args.output / 'pair'}"):
            write_out(f"wrote {args.output / 'pair'}")
        return 0


command = TrainCommand()
