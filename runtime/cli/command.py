"""What a command is, and types of arguments that several commands share."""

from __future__ import annotations

import argparse
import re
from typing import Protocol

BACKENDS = ("kernel", "onnx", "openvino")


class Command(Protocol):
    """A command: one of ours, or the value of an entry point in the group ``splade_edge.commands``.

    Its module is imported to print help. So heavy imports belong into :meth:`run`.

    Attributes
    ----------
    help
        One line for the list of commands.
    """

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare arguments, and set ``parser.description`` and ``parser.epilog`` (examples).

        Parameters
        ----------
        parser
            The command's parser.
        """

    def run(self, args: argparse.Namespace) -> int:
        """Run the command.

        Parameters
        ----------
        args
            The parsed arguments.

        Returns
        -------
        int
            The exit code.

        Raises
        ------
        SpladeEdgeError
            For anything that the user can correct.
        """


def positive_int(text: str) -> int:
    """A whole number of at least 1.

    Parameters
    ----------
    text
        The argument.

    Returns
    -------
    int
        Its value.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is something else.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def non_negative_int(text: str) -> int:
    """A whole number of at least 0.

    Parameters
    ----------
    text
        The argument.

    Returns
    -------
    int
        Its value.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is something else.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def positive_ints(text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas.

    Parameters
    ----------
    text
        The argument.

    Returns
    -------
    list of int
        The numbers, ascending, each once.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is something else.
    """
    return sorted({positive_int(part.strip()) for part in text.split(",")})


def positive_seconds(text: str) -> float:
    """A number of seconds above 0, at most an hour.

    Parameters
    ----------
    text
        The argument.

    Returns
    -------
    float
        Its value.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is something else.
    """
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text) or not 0 < float(text) <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most 3600")
    return float(text)


def share(text: str) -> float:
    """A number above 0, up to 1.

    Parameters
    ----------
    text
        The argument.

    Returns
    -------
    float
        Its value.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is something else.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, up to 1")
    return value


def exponent(text: str) -> float:
    """An exponent of the inverse document frequency.

    Parameters
    ----------
    text
        The argument.

    Returns
    -------
    float
        Its value.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is not a number from 0 to the largest exponent.
    """
    from ..errors import InputError
    from ..idf import LARGEST_POWER, check_power

    try:
        return check_power(float(text))
    except (ValueError, InputError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 (off) to {LARGEST_POWER}") from None


def shares(text: str) -> list[float]:
    """Numbers above 0, up to 1, separated by commas.

    Parameters
    ----------
    text
        The argument.

    Returns
    -------
    list of float
        The numbers, descending, each once.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is something else.
    """
    return sorted({share(part.strip()) for part in text.split(",")}, reverse=True)


def byte_size(text: str) -> int:
    """A size in bytes, such as ``512M``, ``2G`` or ``2097152``. K, M and G are powers of 1024.

    Parameters
    ----------
    text
        The argument.

    Returns
    -------
    int
        Bytes, at least 1 MiB.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is something else.
    """
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?)(i?B)?", text, re.IGNORECASE)
    size = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()] if match else 0
    if size < 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at least 1M (like 512M or 2G)")
    return size


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--backend``, ``--precision`` and ``--threads``.

    Parameters
    ----------
    parser
        The command's parser.
    """
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
    """Declare ``--json``.

    Parameters
    ----------
    parser
        The command's parser.
    what
        What is printed, for the help.
    """
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")
