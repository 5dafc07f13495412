"""What a subcommand is, and argument types that several share."""

from __future__ import annotations

import argparse
import re
from typing import Protocol

BACKENDS = ("kernel", "onnx", "openvino")


class Command(Protocol):
    """A subcommand: built in, or the value of an entry point in the group ``splade_edge.commands``.

    Its module is imported to print help, so heavy imports belong into :meth:`run`.
    """

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare arguments; set ``parser.description`` and ``parser.epilog`` (examples)."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; returns the exit code. Raises SpladeEdgeError for anything the user can mend."""


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def non_negative_int(text: str) -> int:
    """A whole number of at least 0."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def positive_ints(text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas, each once."""
    return sorted({positive_int(part.strip()) for part in text.split(",")})


def positive_seconds(text: str) -> float:
    """Seconds, more than 0, at most an hour."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text) or not 0 < float(text) <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most 3600")
    return float(text)


def share(text: str) -> float:
    """A number above 0, up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, up to 1")
    return value


def exponent(text: str) -> float:
    """An exponent of the inverse document frequency."""
    from ..errors import InputError
    from ..idf import LARGEST_POWER, check_power

    try:
        return check_power(float(text))
    except (ValueError, InputError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 (off) to {LARGEST_POWER}") from None


def shares(text: str) -> list[float]:
    """Numbers above 0, up to 1, separated by commas, each once, the largest first."""
    return sorted({share(part.strip()) for part in text.split(",")}, reverse=True)


def byte_size(text: str) -> int:
    """A size in bytes: ``512M``, ``2G``, ``65536``; K, M, G are powers of 1024."""
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?)(i?B)?", text, re.IGNORECASE)
    size = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()] if match else 0
    if size < 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at least 1M (like 512M or 2G)")
    return size


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """``--backend``, ``--precision`` and ``--threads``."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="engine that runs the encoder: ours (kernel), or another (default: the first of these that is exported)",
    )
    parser.add_argument("--precision", choices=("fp32", "int8"), help="encoder graph (default: int8 if exported)")
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="threads (default: the CPUs this process may use)"
    )


def add_json_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")
