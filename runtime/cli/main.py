"""``splade-edge``: the parser, plug-in commands, and what an error looks like."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from ..errors import MissingExtraError, SpladeEdgeError, SpladeEdgeWarning
from . import bench, change, check, index, info, interrupts, search
from . import eval as eval_command
from .command import Command
from .console import (
    drop_output,
    drop_what_is_left,
    prepare_streams,
    printable,
    shortened,
    warn,
    write_err,
    write_out,
)
from .early import INTERRUPTED

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "splade_edge.commands"
BUILT_IN: dict[str, Command] = {
    "index": index.IndexCommand(),
    "add": change.AddCommand(),
    "update": change.UpdateCommand(),
    "delete": change.DeleteCommand(),
    "compact": change.CompactCommand(),
    "search": search.SearchCommand(),
    "eval": eval_command.EvalCommand(),
    "info": info.InfoCommand(),
    "check": check.CheckCommand(),
    "bench": bench.BenchCommand(),
}
# Known plug-ins are listed without importing them: name -> (help, extra that brings what they need).
KNOWN_PLUG_INS = {
    "export": ("export a checkpoint or a pair to ONNX and OpenVINO, compared with its library", "export"),
    "compare": ("compare an artifact with its checkpoint on your own texts", "export"),
    "train": ("train a query and a document encoder on your own retrieval sets", "train"),
}
ALIASES = {"check": ["verify"]}  # other names of commands
BROKEN_PIPE = 141


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and where the help is, and exit with 2.

        Parameters
        ----------
        message
            The message of argparse.

        Raises
        ------
        SystemExit
            Always.
        """
        self.exit(2, f"{self.prog}: error: {printable(shortened(message))} (see {self.prog} --help)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            write_out(message.removesuffix("\n"))  # argparse would drop what cannot be written
        else:
            write_err(message)


class _ShowVersion(argparse.Action):
    """The action of ``--version``. The version is looked up only when it is asked for."""

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        from ..version import VERSION

        write_out(f"splade-edge {VERSION}")
        raise SystemExit(0)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples, and shows defaults that a help text does not name itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text and action.option_strings and "(default" not in text and not _says_nothing(action.default):
            text += " (default: %(default)s)"
        return text


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script: run a command line and end the process.

    Parameters
    ----------
    argv
        The arguments; None: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = main(arguments)
    finally:  # also when argparse exits
        interrupts.ignore()  # all work is done and reported
        drop_what_is_left()
    if arguments and arguments[0] in BUILT_IN and not _watched():
        _leave_at_once(code)
    sys.exit(code)


def _leave_at_once(code: int) -> NoReturn:
    """End the process without finalizing the interpreter, which would cost a search 0.2 s of CPU.

    When a command of ours returns, everything that it wrote is closed, flushed and renamed.
    """
    os._exit(code)


def _watched() -> bool:
    """Whether something needs the interpreter to end properly: a debugger, a profiler, coverage, a prompt, a thread."""
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12
    return (
        sys.gettrace() is not None
        or sys.getprofile() is not None
        or (monitoring is not None and any(monitoring.get_tool(tool) for tool in range(6)))
        or bool(sys.flags.interactive or os.environ.get("PYTHONINSPECT"))
        or any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Our own errors become one line on standard error.

    Parameters
    ----------
    argv
        The arguments; None: those of the process.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    SystemExit
        By argparse, after ``--help`` and for wrong arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(arguments))


def guarded(action: Callable[[], int]) -> int:
    """Run an action with streams, warnings and errors treated as every command treats them.

    Parameters
    ----------
    action
        Returns the exit code.

    Returns
    -------
    int
        The exit code of the action, or that of its error.
    """
    prepare_streams()
    warnings.simplefilter("always", SpladeEdgeWarning)
    warnings.showwarning = _show_warning
    try:
        with interrupts.raised():
            try:
                code = action()
            except SystemExit:  # of argparse
                _flush()
                raise
            _flush()
    except SpladeEdgeError as error:
        warn("error", str(error))
        return error.exit_code
    except KeyboardInterrupt:
        warn("error", "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        drop_output()  # the reader has gone (| head)
        return BROKEN_PIPE
    except OSError as error:
        from ..files import remedy_of

        if error.filename is None:
            drop_output()
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "standard output"
        too_long = error.errno == errno.ENAMETOOLONG
        remedy = "use a shorter name" if too_long else error.filename and remedy_of(error)
        warn("error", f"{name}: {error.strerror or error}" + (f"; {remedy}" if remedy else ""))
        return 2 if too_long else 1
    except MemoryError:
        warn("error", "out of memory; close other programs, or give a smaller --memory")
        return 1
    return code


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else None
    parser = Parser(
        prog="splade-edge",
        description="Learned sparse retrieval on a CPU: export, index and search with SPLADE encoders.",
        epilog="`splade-edge COMMAND --help` has the options and examples of a command.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for built_in, command in BUILT_IN.items():
        _add(commands, built_in, command)
    plug_ins = {} if name in BUILT_IN else _plug_ins()
    for plug_in in sorted((KNOWN_PLUG_INS.keys() | plug_ins.keys()) - BUILT_IN.keys()):
        about = KNOWN_PLUG_INS.get(plug_in, (f"plug-in ({getattr(plug_ins.get(plug_in), 'value', '')})",))[0]
        if plug_in == name:
            _add(commands, plug_in, _load(plug_in, plug_ins.get(plug_in)), about)
        else:
            commands.add_parser(plug_in, help=about)
    args, rest = parser.parse_known_args(arguments)
    if name == "search" and len(rest) == 1 and args.query is None and (rest[0] == "-" or rest[0][:1] != "-"):
        args.query = rest.pop()  # argparse takes QUERY for absent if options precede it
    if rest:
        hint = "; put a QUERY of several words in quotes" if name == "search" else ""
        command_parser: Parser = commands.choices.get(name or "", parser)
        command_parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if "run_command" not in args:
        parser.print_help(sys.stderr)
        return 2
    command = args.run_command
    try:
        return int(command.run(args))
    except ModuleNotFoundError as error:
        raise _missing(name, error) from error


def _add(commands: argparse._SubParsersAction[Parser], name: str, command: Command, about: str | None = None) -> None:
    parser = commands.add_parser(
        name, aliases=ALIASES.get(name, ()), help=about or command.help, formatter_class=HelpFormatter
    )
    command.add_arguments(parser)
    parser.set_defaults(run_command=command)


def _plug_ins() -> dict[str, EntryPoint]:
    # Imported here, because it takes a tenth of the time of a small search.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _load(name: str, point: EntryPoint | None) -> Command:
    """A plug-in's command. Raises MissingExtraError if a module that it imports is not installed."""
    if point is None:
        raise MissingExtraError(f"splade-edge {name}", KNOWN_PLUG_INS[name][1])
    try:
        command: Command = point.load()
    except ModuleNotFoundError as error:
        raise _missing(name, error) from error
    return command


def _says_nothing(default: object) -> bool:
    return default is None or default is argparse.SUPPRESS or isinstance(default, bool)


def _missing(name: str | None, error: ModuleNotFoundError) -> Exception:
    """The error that names the extra to install; ``error`` itself if the missing module is our own (a defect)."""
    if name not in KNOWN_PLUG_INS or (error.name or "").startswith("splade_edge.runtime"):
        return error
    return MissingExtraError(f"splade-edge {name} (no module {error.name})", KNOWN_PLUG_INS[name][1])


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, SpladeEdgeWarning):
        warn("warning", str(message))
    else:
        write_err(warnings.formatwarning(message, category, filename, lineno, line))


if __name__ == "__main__":
    run()
