"""Which backend does a piece of work: NumPy, or a kernel that Numba compiled. The results are equal to the last bit.

Loading Numba and its cached kernels takes a third of a second and 90 MB, which a search of a few thousand documents
never earns back. So a process begins with NumPy. It changes to the kernels for good when NumPy has taken about as long
as loading them takes. So it never spends more than twice the time of the better backend. NumPy's time is estimated from
the size of the work, so that the same calls take the same backend on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

from ..forking import new_lock, undivided

# How long NumPy may work in a process, estimated, in nanoseconds: about what loading the kernels takes.
NUMPY_BUDGET = 200e6

# Each is called once, before the first kernel is compiled that is not in the cache.
on_compile: list[Callable[[], None]] = []

_lock = new_lock()
_budget_left = NUMPY_BUDGET


def use_numpy(nanoseconds: float) -> bool:
    """Decide whether NumPy does a piece of work, and take its time from the budget.

    Parameters
    ----------
    nanoseconds
        How long NumPy will take, estimated. 0 only asks.

    Returns
    -------
    bool
        True until the budget is spent. From the first False on, always False.
    """
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
    """Return whether the JIT is disabled (``NUMBA_DISABLE_JIT``). Loads Numba."""
    with undivided:
        import numba

    return bool(numba.config.DISABLE_JIT)
