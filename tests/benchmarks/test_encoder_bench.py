from __future__ import annotations

import pytest

from benchmarks.encoder_bound import Shape, encoder_shapes, measure_bound
from benchmarks.turns import in_turns, texts_of


def words(text: str) -> int:
    return 2 + len(text.split())


def test_texts_have_just_the_length_asked_for() -> None:
    some = [f"w{i}" for i in range(157)]
    for length in (3, 8, 16):
        texts = texts_of(some, length, words)
        assert len(set(texts)) == len(texts) == min(12, 157 // (length - 2))
        assert {words(text) for text in texts} == {length}
    with pytest.raises(SystemExit, match="too few words for texts of 500 tokens"):
        texts_of(some, 500, words)
    assert len(texts_of(some, 3, words, most=2)) == 2


def test_everyone_encodes_every_textin_turns() -> None:
    seen: list[tuple[str, str]] = []
    calls = {name: (lambda text, name=name: seen.append((name, text))) for name in ("a", "b")}
    times = in_turns(calls, {3: ["x", "y"], 5: ["z"]}, rounds=2)
    assert set(times) == {"a", "b"}
    assert all(0 <= t < 1e3 for by in times.values() for t in by.values())
    # A text that warms up, then all of them; the second round begins with the other one.
    assert seen[:6] == [("a", "x"), ("a", "x"), ("a", "y"), ("b", "x"), ("b", "x"), ("b", "y")]
    assert seen[10] == ("b", "x")


def test_the_bound_counts_every_product() -> None:
    shapes = encoder_shapes(layers=2, hidden=128, intermediate=512, vocab=30522)
    assert sum(s.times * s.k * s.n for s in shapes) == 2 * (4 * 128**2 + 2 * 128 * 512) + 128**2 + 128 * 30522
    pytest.importorskip("onnx")
    bound = measure_bound([Shape(8, 16, 2), Shape(16, 40)], tokens=5)
    assert bound.total == bound.products + bound.reading
    assert bound.products > 0
    assert bound.reading > 0
    assert bound.fastest
