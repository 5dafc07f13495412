"""Resident memory of this process. Imports next to nothing, so that it can be used where imports are measured.

Not run by itself. Used by :mod:`benchmarks.indexing`, :mod:`benchmarks.resident`, :mod:`benchmarks.scorer_worker` and
others.
"""

from __future__ import annotations


class AnonymousPeak:
    """Samples the anonymous memory of this process every 20 ms: what cannot be given back, unlike mapped files."""

    def __init__(self) -> None:
        import threading

        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> AnonymousPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_mb = max(self.peak_mb, _status("RssAnon")[0])


def memory_mb() -> tuple[float, float]:
    """(resident now, peak) in MB (10^6), from /proc; zeros where there is none."""
    now, peak = _status("VmRSS", "VmHWM")
    return now, peak


def resident_mb() -> dict[str, float]:
    """Resident ``anonymous`` memory, and pages of mapped ``files``, in MB (10^6); zeros where there is no /proc."""
    anonymous, files = _status("RssAnon", "RssFile")
    return {"anonymous": anonymous, "files": files}


def _status(*names: str) -> list[float]:
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - pathlib would be an import
            values = dict(line.split(":", 1) for line in file)
    except OSError:
        return [0.0] * len(names)
    return [int(values[name].split()[0]) * 1024 / 1e6 for name in names]
