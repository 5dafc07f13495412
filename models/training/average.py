"""Two fine-tuned encoders of one shape as one, by averaging their weights (Wortsman et al. 2022):
``python -m splade_edge.models.training.average ONE OTHER -o DIR``.

Between an encoder and one that was tuned on from it lie encoders that have more of what either is good at than a
training that stops half-way.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ...runtime.build.staging import staged_directory
from ...runtime.errors import InputError

_WEIGHTS, _TOKENIZER = "model.safetensors", "tokenizer.json"


def average(one: Path, other: Path, output: Path, share: float, *, force: bool = False) -> None:
    """Write a checkpoint whose weights are a weighted mean of two checkpoints' weights.

    Parameters
    ----------
    one : Path
        The checkpoint that gives everything but the weights of ``other``, and the precision.
    other : Path
        The other checkpoint.
    output : Path
        The directory to write.
    share : float
        The weight of ``other``, between 0 and 1.
    force : bool
        Whether to replace what is there.

    Raises
    ------
    InputError
        If the two do not have the same tensors.
    StorageError
        If the checkpoint cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    if not 0.0 <= share <= 1.0:
        raise InputError(f"--share is {share}; give one from 0 to 1")
    try:
        first, second = load_file(one / _WEIGHTS), load_file(other / _WEIGHTS)
        same_tokens = (one / _TOKENIZER).read_bytes() == (other / _TOKENIZER).read_bytes()
    except (OSError, SafetensorError) as error:
        raise InputError(f"{one} and {other} must be checkpoints with {_WEIGHTS} and {_TOKENIZER} ({error})") from None
    if {n: t.shape for n, t in first.items()} != {n: t.shape for n, t in second.items()}:
        raise InputError(f"{one} and {other} do not have the same tensors, so they cannot be averaged")
    if not same_tokens:
        raise InputError(f"{one} and {other} do not have the same tokenizer, so they cannot be averaged")
    mean = {n: ((1 - share) * t.float() + share * second[n].float()).to(t.dtype) for n, t in first.items()}
    with staged_directory(output, manifest="config.json", force=force) as place:
        for path in one.iterdir():
            if path.is_file() and path.name != _WEIGHTS:
                shutil.copyfile(path, place / path.name)
        save_file(mean, place / _WEIGHTS, metadata={"format": "pt"})


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The command line."""
    from ...runtime.cli.main import guarded

    parser = argparse.ArgumentParser(prog="python -m splade_edge.models.training.average", description=__doc__)
    parser.add_argument("one", type=Path, metavar="ONE", help="a checkpoint directory (one side of a pair)")
    parser.add_argument("other", type=Path, metavar="OTHER", help="another, of the same shape")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="the checkpoint to write")
    parser.add_argument("--share", type=float, default=0.5, metavar="X", help="of OTHER (default: 0.5)")
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that is there")
    args = parser.parse_args(argv)

    def action() -> int:
        average(args.one, args.other, args.output, args.share, force=args.force)
        return 0

    sys.exit(guarded(action))


if __name__ == "__main__":
    main()
