"""What Ctrl-C does: before a command runs, while it runs, and when it is done. It is one line, and exit code 130.

An interrupt that falls into an import may come out of it as another error, or not at all: so it is remembered.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130
_LINE = b"splade-edge: error: interrupted\n"
_came = False


def leave() -> None:
    """While modules are loaded: an interrupt ends the process at once."""
    if _is_ours(signal.default_int_handler):
        signal.signal(signal.SIGINT, _leave)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """While a command runs: an interrupt is a KeyboardInterrupt, whatever comes of it on the way."""
    global _came
    _came = False
    if not (_is_ours(signal.default_int_handler) or _is_ours(_leave)):
        yield
        return
    signal.signal(signal.SIGINT, _raise)
    try:
        yield
    except BaseException as error:
        if _came and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
    """When all is done: an interrupt comes too late."""
    if _is_ours(signal.default_int_handler):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_ours(handler: object) -> bool:
    """Whether interrupts go to ``handler`` now; not where the caller has them ignored, or treats them itself."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is handler


def _leave(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, _LINE)
    os._exit(INTERRUPTED)


def _raise(number: int, frame: FrameType | None) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt
