from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from splade_edge.runtime.errors import ArtifactError, IntegrityError, SpladeEdgeError
from splade_edge.runtime.manifest import (
    FileEntry,
    Manifest,
    check_hashes,
    check_sizes,
    describe_file,
    read_manifest,
    write_manifest,
)


class Thing(Manifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    scale: float


THING = Thing(format="thing", version=1, files={"a": FileEntry(3, "0" * 64)}, name="é\u2028 𝄞", scale=0.1)


def read(path: Path) -> Thing:
    return read_manifest(path, Thing, format="thing", version=1, error=ArtifactError)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_manifest(tmp_path / "thing.json", THING)
    return tmp_path / "thing.json"


def test_round_trip(path: Path) -> None:
    assert read(path) == THING
    assert json.loads(path.read_text("utf-8"))["name"] == THING.name
    assert len(path.read_text("utf-8").splitlines()) > 5  # indented, for people


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_a_flipped_byte_anywhere_is_found(path: Path, data: st.DataObject) -> None:
    raw = path.read_bytes()
    position = data.draw(st.integers(0, len(raw) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != raw[position]))
    damaged = path.with_name("damaged.json")
    damaged.write_bytes(raw[:position] + bytes([other]) + raw[position + 1 :])
    if raw[position : position + 1].isspace() and bytes([other]).isspace():
        return  # white space between tokens carries no meaning
    with pytest.raises(SpladeEdgeError, match=r"^[^\n]*$"):
        read(damaged)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_truncated_manifest_is_found(path: Path, data: st.DataObject) -> None:
    raw = path.read_bytes()
    (path.parent / "short.json").write_bytes(raw[: data.draw(st.integers(0, len(raw) - 3))])
    with pytest.raises(IntegrityError, match="damaged"):
        read(path.parent / "short.json")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no thing\.json: it is not a thing directory, or it is incomplete"):
        read(tmp_path / "thing.json")
    (tmp_path / "thing.json").mkdir()
    with pytest.raises(ArtifactError, match="cannot read"):
        read(tmp_path / "thing.json")


def test_newer_version(tmp_path: Path) -> None:
    class Newer(Thing, frozen=True, kw_only=True):
        field_of_tomorrow: int

    newer = Newer(format="thing", version=2, files={}, name="x", scale=1.0, field_of_tomorrow=1)
    write_manifest(tmp_path / "thing.json", newer)
    with pytest.raises(ArtifactError, match="thing version 2; this release reads up to 1: upgrade splade-edge"):
        read(tmp_path / "thing.json")


def test_another_format(tmp_path: Path) -> None:
    write_manifest(tmp_path / "thing.json", Manifest(format="other", version=1, files={}))
    with pytest.raises(ArtifactError, match="is not the manifest of a thing directory"):
        read(tmp_path / "thing.json")


@pytest.mark.parametrize("raw", [b"[]", b"null", b"{}", b'"x"', b"\xff", b"", b"[" * 10_000])
def test_not_a_manifest(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "thing.json").write_bytes(raw)
    with pytest.raises(SpladeEdgeError, match=r"thing\.json"):
        read(tmp_path / "thing.json")


def test_edited_by_hand(path: Path) -> None:
    path.write_text(path.read_text("utf-8").replace("0.1", "0.2"), "utf-8")
    with pytest.raises(IntegrityError, match="was edited"):
        read(path)


def test_files_are_compared(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub/f"
    file.write_bytes(b"abc")
    entries = {"sub/f": describe_file(file)}
    check_hashes(tmp_path, entries)
    file.write_bytes(b"abd")
    check_sizes(tmp_path, entries)
    with pytest.raises(IntegrityError, match=r"f is damaged \(its SHA-256 does not match\)"):
        check_hashes(tmp_path, entries)
    file.write_bytes(b"ab")
    with pytest.raises(IntegrityError, match="has 2 bytes instead of 3"):
        check_sizes(tmp_path, entries)
    file.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        check_sizes(tmp_path, entries)
    with pytest.raises(SpladeEdgeError, match="outside the directory"):
        check_sizes(tmp_path, {"../f": entries["sub/f"]})
