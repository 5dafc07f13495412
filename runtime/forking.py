"""What lets a process fork at any moment, with a child that can do all that its parent could.

A child has one thread: the one that forked. So in the child nobody ever lets go of a lock that another thread held,
nobody works for a pool of threads, and what a library was in the middle of stays half done. Here is what that takes,
by kinds:

- locks of ours are free in the child (:func:`new_lock`): what they guard is set in one step, or made again;
- calls into libraries that have locks of their own are ended before a fork (:data:`undivided`, :func:`hold`);
- pools of threads start new ones in the child (:class:`Threads`);
- what only the parent may go on with is told by :class:`Owner`, and its descriptors lead nowhere in the child;
- whatever else has to be made anew says how (:func:`renew_in_child`).

Processes that are started in another way (``spawn``, ``forkserver``, :mod:`subprocess`) are not concerned.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Generic, Protocol, Self, TypeVar, overload

from .errors import InputError

T = TypeVar("T")
R = TypeVar("R")

# A thread that a library keeps for longer is not waited for: a fork that never comes is no better than its child.
PATIENCE = 60.0


class Renewable(Protocol):
    """Has something that a child has to make anew."""

    def renew(self) -> None:
        """Called in a child, right after the fork. It must be quick and take no lock of others."""


class _Lock(Protocol):
    def acquire(self) -> Any: ...
    def release(self) -> Any: ...


class _Undivided:
    """``with undivided:`` a fork waits until the block has ended. For what has locks that we cannot make anew: a call
    into SQLite, an engine, an import. Blocks may be nested; within one no lock of ours may be waited for.
    """

    def __init__(self) -> None:
        self._begin({})

    def _begin(self, inside: dict[int, int]) -> None:
        self._lock = threading.Lock()  # taken as it is: a condition's own methods take as long as all the rest here
        self._changed = threading.Condition(self._lock)
        self._inside = inside  # by thread, how deep
        self._forking = False

    def __enter__(self) -> None:
        thread = threading.get_ident()
        with self._lock:
            while self._forking and thread not in self._inside:
                self._changed.wait()
            self._inside[thread] = self._inside.get(thread, 0) + 1

    def __exit__(self, *_: object) -> None:
        thread = threading.get_ident()
        with self._lock:
            self._inside[thread] -= 1
            if not self._inside[thread]:
                del self._inside[thread]
                if self._forking:
                    self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in, and wait until all other threads have come out."""
        thread = threading.get_ident()
        with self._changed:
            while self._forking:  # another thread forks
                self._changed.wait()
            self._forking = True
            self._changed.wait_for(lambda: not self._inside.keys() - {thread}, PATIENCE)

    def open(self) -> None:
        """Let everybody in again."""
        with self._changed:
            self._forking = False
            self._changed.notify_all()

    def renew(self) -> None:
        """In a child: nobody is inside but the thread that forked."""
        thread = threading.get_ident()
        self._begin({t: depth for t, depth in self._inside.items() if t == thread})


undivided = _Undivided()
_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_renewables: weakref.WeakSet[Any] = weakref.WeakSet()
_private: weakref.WeakSet[IO[Any]] = weakref.WeakSet()
_private_descriptors: set[int] = set()
_held: list[_Lock] = []
_generation = 0  # how many forks this process is away from the first


def new_lock() -> threading.Lock:
    """A lock that is free in a child, whoever held it."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def hold(lock: _Lock) -> None:
    """Let a fork take a lock of another library, which the thread that forks may hold already."""
    _held.append(lock)


def renew_in_child(what: Renewable) -> None:
    """Call ``what.renew()`` in every child, for as long as there is such an object."""
    _renewables.add(what)


def let_be(what: object) -> None:
    """Keep an object for ever: one whose end would wait for threads that are no more."""
    _kept_for_ever.append(what)
    with contextlib.suppress(ImportError, AttributeError):  # modules are emptied at the end of a process
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(what))


_kept_for_ever: list[object] = []


def private(file: IO[Any]) -> None:
    """A file that is being written by this process alone: in a child it leads nowhere, lest what is left in a buffer is
    written twice.
    """
    _private.add(file)


def private_descriptor(descriptor: int, *, closed: bool = False) -> None:
    """The same for a descriptor, until it is told to be ``closed``. A lock goes with its last descriptor, and a child
    must not keep that of its parent.
    """
    (_private_descriptors.discard if closed else _private_descriptors.add)(descriptor)


class Owner:
    """The process that made an object."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is that process, and not a child of it."""
        return self._process == os.getpid()

    def refuse_child(self, what: str) -> None:
        """Raise InputError in any other process; ``what`` it is."""
        if not self.is_here:
            raise InputError(f"{what} is of process {self._process}, which forked; only that one may go on with it")


class Threads:
    """Up to ``count`` threads, started when they are first needed, and anew in a child."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ThreadPoolExecutor | None = None
        renew_in_child(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The results of all items, in order; all of them are begun at once. What a fork has left undone is done by the
        thread that asks for it.
        """
        pool = self._pool
        if pool is None:
            pool = self._pool = ThreadPoolExecutor(self._count)
        return _results(function, [(item, pool.submit(function, item)) for item in items])

    def renew(self) -> None:
        """The threads are not here."""
        if self._pool is not None:
            _kept_for_ever.append(self._pool)
            self._pool = None


def _results(function: Callable[[T], R], begun: list[tuple[T, Future[R]]]) -> Iterator[R]:
    generation = _generation
    try:
        begun.reverse()
        while begun:
            item, future = begun.pop()
            yield future.result() if generation == _generation else function(item)
    finally:
        if generation == _generation:
            for _, future in begun:
                future.cancel()


class cached_property(Generic[T]):  # noqa: N801 - it takes the place of that of functools
    """As that of :mod:`functools`, which before Python 3.12 holds a lock that a child would wait for in vain. Two
    threads that come at once may both find the value.
    """

    def __init__(self, find: Callable[[Any], T]) -> None:
        self._find = find
        self.__doc__ = find.__doc__

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any]) -> Self | T:
        if instance is None:
            return self
        value: T = instance.__dict__.setdefault(self._name, self._find(instance))
        return value


def _imports_of_others() -> list[Any]:
    """The locks of the modules that other threads are importing. In a child such a module would stay half there, and
    locked, for ever.
    """
    locks = getattr(importlib._bootstrap, "_module_locks", {})
    found = [reference() for reference in list(locks.values())]
    mine = (None, threading.get_ident())
    return [lock for lock in found if lock is not None and getattr(lock, "owner", None) not in mine]


def _before() -> None:
    undivided.close()
    end = time.monotonic() + PATIENCE
    while True:
        while _imports_of_others() and time.monotonic() < end:
            time.sleep(0.001)
        for lock in _held:
            lock.acquire()
        if not _imports_of_others() or time.monotonic() >= end:
            return
        for lock in reversed(_held):  # which an import may wait for
            lock.release()


def _in_parent() -> None:
    for lock in reversed(_held):
        lock.release()
    undivided.open()


def _in_child() -> None:
    global _generation
    _generation += 1
    for lock in reversed(_held):
        with contextlib.suppress(RuntimeError):  # a server that forks by itself may not have asked us before
            lock.release()
    undivided.renew()
    for lock in list(_locks):
        lock._at_fork_reinit()
    _lead_nowhere()
    for what in list(_renewables):
        what.renew()


def _lead_nowhere() -> None:
    files = [file.fileno() for file in list(_private) if not file.closed]
    if not files and not _private_descriptors:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (*files, *_private_descriptors):
        os.dup2(nowhere, descriptor, inheritable=False)
    os.close(nowhere)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
