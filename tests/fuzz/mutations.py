"""What can happen to the files of a directory, by a seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime.artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from splade_edge.runtime.index.checksum import checksum
from splade_edge.runtime.index.layout import MANIFEST_NAME as INDEX_MANIFEST

MANIFESTS = (INDEX_MANIFEST, ARTIFACT_MANIFEST)
# What an engine of others reads is not forged: a made-up model or tokenizer is theirs to refuse.
_NOT_FORGED = (".onnx", ".xml", ".bin", "tokenizer.json")
_NUMBERS = (0, 1, -1, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 0.0, -0.5, 1e308)


@dataclass
class Tree:
    """The files of a directory, held in memory: ``original`` by name, and the bytes (None: deleted) that differ."""

    root: Path
    original: dict[str, bytes]
    changed: dict[str, bytes | None] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path) -> Tree:
        files = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")  # that of a lock is no data
        return cls(root, {p.relative_to(root).as_posix(): p.read_bytes() for p in files})

    def get(self, name: str) -> bytes:
        return self.changed.get(name, self.original[name]) or b""

    def set(self, name: str, data: bytes | None) -> None:
        self.changed[name] = data
        if data == self.original[name]:
            del self.changed[name]

    def write(self) -> None:
        """Bring the changes to the disk, in new files: an old one may be mapped still."""
        for name, data in self.changed.items():
            path = self.root / name
            path.unlink()
            if data is not None:
                path.write_bytes(data)

    def restore(self) -> None:
        for name in self.changed:
            path = self.root / name
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.original[name])
        self.changed.clear()


def damage(tree: Tree, rng: random.Random) -> str:
    """Damage one to three files; returns what was done."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice(list(tree.original))
        data = tree.get(name)
        kind = rng.choice(
            ("flip", "flip", "flip", "byte", "byte", "cut", "grow", "zeros", "noise", "delete", "swap", "copy", "move")
        )
        if kind in ("swap", "copy"):
            other = rng.choice(list(tree.original))
            if kind == "swap":
                tree.set(other, data)
                tree.set(name, tree.original[other])
            else:
                tree.set(name, tree.get(other))
            done.append(f"{kind} {name} {other}")
            continue
        tree.set(name, None if kind == "delete" else changed_bytes(data, kind, rng))
        done.append(f"{kind} {name}")
    return ", ".join(done)


def changed_bytes(data: bytes, kind: str, rng: random.Random) -> bytes:
    """The same bytes, damaged."""
    if not data:
        return b"\0" if kind == "grow" else data
    new = bytearray(data)
    at = rng.randrange(len(new))
    length = min(rng.choice((1, 2, 4, 8, 512, 4096)), len(new) - at)
    if kind == "flip":
        new[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        new[at] = rng.randrange(256)
    elif kind == "cut":
        del new[at:]
    elif kind == "grow":
        new += rng.randbytes(rng.choice((1, 8, 4096)))
    elif kind == "zeros":
        new[at : at + length] = bytes(length)
    elif kind == "noise":
        new[at : at + length] = rng.randbytes(length)
    else:  # move: as a write that went astray
        part = new[at : at + length]
        del new[at : at + length]
        to = rng.randrange(len(new) + 1)
        new[to:to] = part
    return bytes(new)


def forge(tree: Tree, rng: random.Random) -> str:
    """Change a file or a manifest's values and make all checksums fit: what only a validation can refuse."""
    names = [name for name in tree.original if not name.endswith(_NOT_FORGED)]
    name = rng.choice(names)
    if Path(name).name in MANIFESTS:
        body = json.loads(tree.get(name))
        done = f"value of {name}: {_change_value(body, rng)}"
        tree.set(name, _manifest(body))
    else:
        kind = rng.choice(("flip", "byte", "noise", "zeros", "move", "swap values"))
        data = tree.get(name)
        tree.set(name, _swapped_values(data, rng) if kind == "swap values" else changed_bytes(data, kind, rng))
        done = f"{kind} {name}"
        if name.startswith("segments/"):
            _mend_checksums(tree, str(Path(name).parent))
    _mend_manifests(tree)
    return f"forged {done}"


def _swapped_values(data: bytes, rng: random.Random) -> bytes:
    width = rng.choice([w for w in (1, 2, 4, 8) if len(data) % w == 0])
    values = [data[i : i + width] for i in range(0, len(data), width)]
    if len(values) > 1:
        a, b = rng.sample(range(len(values)), 2)
        values[a], values[b] = values[b], values[a]
    return b"".join(values)


def _change_value(body: Any, rng: random.Random) -> str:
    """Change one value anywhere in a JSON object; returns where."""
    places: list[tuple[Any, Any, str]] = []

    def collect(value: Any, path: str) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            if key not in ("sha256", "digest", "made_by"):
                places.append((value, key, f"{path}/{key}"))
            collect(item, f"{path}/{key}")

    collect(body, "")
    holder, key, path = rng.choice(places)
    old = holder[key]
    new: list[Callable[[], Any]] = [lambda: None, lambda: rng.choice(_NUMBERS), lambda: "", lambda: "../x", lambda: []]
    if isinstance(old, bool):
        new = [lambda: not old]
    elif isinstance(old, int | float):
        new = [lambda: rng.choice(_NUMBERS), lambda: old + 1, lambda: old - 1, lambda: old * 2, lambda: -old]
    elif isinstance(old, list) and old:
        new += [lambda: old[:-1], lambda: [*old, old[0]], lambda: old[::-1]]
    elif isinstance(old, dict) and old:
        new += [lambda: {**old, "more": 1}, lambda: dict(list(old.items())[1:])]
    holder[key] = rng.choice(new)()
    return f"{path} {json.dumps(old)[:40]} -> {json.dumps(holder[key])[:40]}"


def _mend_checksums(tree: Tree, segment: str) -> None:
    """CRC-32s of postings and rows, as far as the pointers can be followed."""

    def array(name: str, dtype: str) -> np.ndarray:
        return np.frombuffer(tree.get(f"{segment}/{name}"), dtype)

    try:
        blocks, pointers = array("term_blocks.u64", "<u8"), array("block_postings.u64", "<u8")
        units, impacts = array("posting_units.u16", "<u2"), array("posting_impacts.u8", "u1")
        ends = pointers[blocks.astype(np.int64)].astype(np.int64)
        sums = [checksum(units[a:b], impacts[a:b]) for a, b in itertools.pairwise(ends)]
        tree.set(f"{segment}/term_checksums.u32", np.array(sums, "<u4").tobytes())
        rows = array("chunk_terms.u32", "<u4").size
        parts = [
            array(name, dtype).reshape(rows, -1)
            for name, dtype in (("chunk_impacts.u8", "u1"), ("span_postings.u16", "<u2"), ("chunk_postings.u8", "u1"))
        ]
        sums = [checksum(*(np.ascontiguousarray(part[row]) for part in parts)) for row in range(rows)]
        tree.set(f"{segment}/chunk_checksums.u32", np.array(sums, "<u4").tobytes())
    except (IndexError, ValueError, MemoryError):
        return


def _mend_manifests(tree: Tree) -> None:
    """Sizes, hashes and digests: those of encoders first, since an index lists their manifests."""
    manifests = [name for name in tree.original if Path(name).name in MANIFESTS]
    for name in sorted(manifests, key=lambda name: -name.count("/")):
        folder = name.rpartition("/")[0]
        body = json.loads(tree.get(name))
        if not isinstance(body, dict) or not isinstance(body.get("files"), dict):
            continue
        for listed, entry in body["files"].items():
            full = f"{folder}/{listed}" if folder else listed
            if full in tree.changed and isinstance(entry, dict):
                data = tree.get(full)
                entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        new = _manifest(body)
        if new != tree.get(name):
            tree.set(name, new)


def _manifest(body: dict[str, Any]) -> bytes:
    """A manifest's bytes with the digest they should have."""
    from splade_edge.runtime.manifest import _indented

    body = {key: value for key, value in body.items() if key != "digest"}
    try:
        digest = hashlib.sha256(_indented(body)).hexdigest()
        return bytes(_indented({**body, "digest": digest})) + b"\n"
    except OverflowError:  # a number that JSON has and msgspec has not
        return json.dumps({**body, "digest": "0" * 64}, indent=1).encode()
