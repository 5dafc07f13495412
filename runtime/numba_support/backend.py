"""Whether NumPy does a piece of work, or a kernel that Numba compiled. The results are the same to the last bit.

Numba with its cached kernels takes a third of a second and 90 MB to load, which a search of a few thousand documents
never earns back. So a process begins with NumPy, and goes over to the kernels for good when NumPy has taken about as
long as loading them takes: then no more than twice the time of the better of the two is spent, whatever comes. Work is
estimated from its size, so that the same calls go the same way on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

from ..forking import new_lock, undivided

# What NumPy may take in a process, in nanoseconds by estimate.
NUMPY_BUDGET = 200e6

# Called once, when a kernel is not in the cache and has to be compiled.
on_compile: list[Callable[[], None]] = []

_lock = new_lock()
_budget_left = NUMPY_BUDGET


def use_numpy(nanoseconds: float) -> bool:
    """Whether NumPy is to do what takes it so long by estimate; from the first False on, kernels do everything."""
    global _budget_left
    if _budget_left < 0:
        return False
    with _lock:
        _budget_left -= nanoseconds
        return _budget_left >= 0


def never_use_numpy() -> None:
    """Spend the budget: from now on :func:`use_numpy` is False, and kernels do everything."""
    global _budget_left
    _budget_left = -1.0


def is_off() -> bool:
    """Whether Numba is told not to compile (``NUMBA_DISABLE_JIT``)."""
    with undivided:
        import numba

    return bool(numba.config.DISABLE_JIT)
