"""What Ctrl-C does while a command runs, and when it is done: one line, and exit code 130. (Before that: early.py.)

An interrupt within an import may come out of it as another error, or not at all. So it is remembered.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from .early import on_interrupt

_LATER = 0.02  # seconds
_came = False


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """While a command runs, an interrupt is a KeyboardInterrupt, even if it comes out of the block as another error.

    Raises
    ------
    KeyboardInterrupt
        If there was an interrupt and the block ends with an error.
    """
    global _came
    _came = False
    if not (_is_ours(signal.default_int_handler) or _is_ours(on_interrupt)):
        yield
        return
    signal.signal(signal.SIGINT, _raise)
    hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    try:
        yield
    except BaseException as error:
        if _came and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
    """Ignore interrupts from now on, because all work is done."""
    if _is_ours(signal.default_int_handler):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_ours(handler: object) -> bool:
    """Whether ``handler`` receives interrupts. False if the caller ignores them or has a handler of its own."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is handler


def _raise(number: int, frame: FrameType | None) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat an interrupt a little later that fell where nothing can be raised (a finalizer, a callback)."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    again = threading.Timer(_LATER, _again)
    again.daemon = True
    again.start()


def _again() -> None:
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):  # this wakes a thread that waits, too
        signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()
