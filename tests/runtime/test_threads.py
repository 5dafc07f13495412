from __future__ import annotations

import os
from pathlib import Path

import pytest
from splade_edge.runtime.errors import InputError
from splade_edge.runtime.threads import available_cpus, resolve_threads


def test_the_default_is_what_this_process_may_use() -> None:
    assert 1 <= resolve_threads(None) <= (os.cpu_count() or 1)
    assert resolve_threads(3) == 3


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_bad_threads(threads: int) -> None:
    with pytest.raises(InputError, match="give a whole number of at least 1"):
        resolve_threads(threads)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("max 100000", 64),
        ("garbage", 64),
        ("", 64),
        ("5 0", 64),
    ],
)
def test_a_containers_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    (tmp_path / "cpu.max").write_text(quota + "\n", "ascii")
    assert available_cpus(tmp_path / "cpu.max") == expected
    assert available_cpus(tmp_path / "none") == 64


def test_systems_without_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert available_cpus(tmp_path / "none") == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path / "none") == 1
