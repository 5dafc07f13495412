"""What a stranger can write into an index or an artifact so that every checksum fits, by a seed.

Files are rewritten, then all hashes are mended. Nothing here is made to break the libraries below: what SQLite or
tokenizers would choke on has a guard, and the guard's test has a harmless stand-in.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splade_edge.runtime.index.documents import row_crc

from .mutations import MANIFESTS, Tree, _manifest, _mend_manifests, changed_bytes, forge

NUMBERS = (
    0, 1, -1, 2, 7, 64, 255, 256, 10_000, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53,
    2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 0.0, -0.5, 0.5, 1e-300, 1e37, 1e308,
)  # fmt: skip
NAMES = (
    "", ".", "..", "../x", "/etc/hostname", "a/../../x", "a\0b", "segments", "segments/00000001", "tokenizer.json",
    "encoder/query", "\ud800", "x" * 300, "a/" * 300 + "a", "C:\\x", "a\\b", "con", "é", "\u202e", "\n",
    "splade_edge_index.json", "splade_edge.json",
)  # fmt: skip


def forgery(tree: Tree, rng: random.Random, scratch: Path) -> str:
    """Forge a directory; returns what was done. ``scratch`` is a place for a file."""
    databases = [name for name in tree.original if name.endswith(".sqlite")]
    kinds: list[tuple[int, Callable[[], str]]] = [
        (4, lambda: _values(tree, rng)),
        (2, lambda: _sizes(tree, rng)),
        (1, lambda: _text(tree, rng)),
        (2, lambda: forge(tree, rng)),
        (3, lambda: _tokenizer(tree, rng)),
    ]
    if databases:
        kinds += [(5, lambda: _rows(tree, rng, scratch)), (3, lambda: _schema(tree, rng, scratch))]
        kinds += [(2, lambda: _pages(tree, rng)), (2, lambda: _counts(tree, rng))]
    done = rng.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]()
    with contextlib.suppress(ValueError, RecursionError):  # a manifest that is no JSON has no hashes to mend
        _mend_manifests(tree)
    return done


def _places(body: Any) -> list[tuple[Any, Any, str]]:
    found: list[tuple[Any, Any, str]] = []
    waiting = [(body, "")]
    while waiting:
        value, path = waiting.pop()
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        for key, item in items:
            found.append((value, key, f"{path}/{key}"))
            if isinstance(item, dict | list):
                waiting.append((item, f"{path}/{key}"))
    return found


def _any(rng: random.Random, old: Any) -> Any:
    """A value in the place of another."""
    number = isinstance(old, int | float) and not isinstance(old, bool)
    kinds = ["number", "number", "number", "near"] if number else ["name", "list", "number", "same"]
    if isinstance(old, str):
        kinds = ["name", "name", "name", "number", "long"]
    kind = rng.choice(kinds)
    if kind == "near" and number:
        return old + rng.choice((-1, 1, 64, 256, 65_536))
    if kind == "number":
        return rng.choice(NUMBERS)
    if kind == "name":
        return rng.choice(NAMES)
    if kind == "long":
        return "x" * rng.choice((1_000, 100_000))
    if kind == "list":
        return rng.choice(([], [old] * 3, {}, [rng.choice(NUMBERS)] * 100_000, ["f"] * 100_000, [None], [[]]))
    return None


def _manifest_name(tree: Tree, rng: random.Random) -> str:
    return rng.choice([name for name in tree.original if Path(name).name in MANIFESTS])


def _values(tree: Tree, rng: random.Random) -> str:
    """Values of a manifest, the names of its files among them."""
    name = _manifest_name(tree, rng)
    body = json.loads(tree.get(name))
    done = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder, key, path = rng.choice([place for place in _places(body) if place[1] not in ("digest", "sha256")])
        if isinstance(holder, dict) and rng.random() < 0.1:
            holder[rng.choice(NAMES)] = holder.pop(key)
            done.append(f"{path} renamed")
        elif rng.random() < 0.1:
            del holder[key]
            done.append(f"{path} gone")
        else:
            holder[key] = _any(rng, holder[key])
            done.append(f"{path} = {str(holder[key])[:30]!r}")
    tree.set(name, _bytes(body))
    return f"values of {name}: {'; '.join(done)}"


def _sizes(tree: Tree, rng: random.Random) -> str:
    """Numbers that memory is taken by: all of a manifest that one of them is, each beyond measure."""
    name = _manifest_name(tree, rng)
    body = json.loads(tree.get(name))
    numbers = [place for place in _places(body) if type(place[0][place[1]]) in (int, float) and place[1] != "version"]
    chosen = rng.sample(numbers, min(len(numbers), rng.choice((1, 2, 5))))
    for holder, key, _ in chosen:
        holder[key] = rng.choice(NUMBERS[8:22])
    tree.set(name, _bytes(body))
    return f"sizes of {name}: {', '.join(path for _, _, path in chosen)}"


def _text(tree: Tree, rng: random.Random) -> str:
    """JSON that is deep, wide or none."""
    name = _manifest_name(tree, rng)
    data = tree.get(name)
    at = rng.choice([i for i, byte in enumerate(data) if byte in b":,[{"]) + 1
    depth = rng.choice((100, 500, 990, 5000, 100_000))
    what = rng.choice(
        (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" + b"[]," * depth + b"0]",
         b"1" * depth, b'"' + b"\\u0000" * depth + b'"', b"1e" + b"9" * depth, b"NaN", b"\xff")
    )  # fmt: skip
    tree.set(name, data[:at] + what + data[at:] if rng.random() < 0.5 else data[:at] + what + b"," + data[at:])
    with contextlib.suppress(ValueError, RecursionError):
        tree.set(name, _bytes(json.loads(tree.get(name))))
    return f"text of {name}: {what[:12]!r} x {depth}"


def _counts(tree: Tree, rng: random.Random) -> str:
    """Documents that are not there."""
    name = "splade_edge_index.json"
    body = json.loads(tree.get(name))
    segment = rng.choice(body["segments"])
    count = rng.choice((2**32 - 1, 2**32, 2**31, 2**24, 1_000_000, segment["documents"] + 1, 0))
    segment["documents"] = segment["units"] = count
    if rng.random() < 0.5:
        segment["rows"] = 0
        for file in ("chunk_terms.u32", "chunk_checksums.u32", "chunk_impacts.u8", "span_postings.u16",
                     "chunk_postings.u8"):  # fmt: skip
            if f"{segment['path']}/{file}" in tree.original:
                tree.set(f"{segment['path']}/{file}", b"")
    tree.set(name, _bytes(body))
    return f"{count:,} documents"


def _rows(tree: Tree, rng: random.Random, scratch: Path) -> str:
    """Rows that no writer of ours makes, in tables as they should be."""
    documents = (
        "DELETE FROM documents",
        "DELETE FROM documents WHERE ordinal = 0",
        "DELETE FROM documents WHERE ordinal % 3 = 1",
        "UPDATE documents SET ordinal = 4611686018427387904 WHERE ordinal = (SELECT MAX(ordinal) FROM documents)",
        "UPDATE documents SET ordinal = -1 WHERE ordinal = 1",
        "UPDATE documents SET metadata = replace(hex(zeroblob(3000)), '00', '[') || "
        "replace(hex(zeroblob(3000)), '00', ']')",
        "UPDATE documents SET metadata = '{\"a\":' || replace(hex(zeroblob(400)), '00', '[') || "
        "replace(hex(zeroblob(400)), '00', ']') || '}'",
        "UPDATE documents SET metadata = '{\"n\": 1' || replace(hex(zeroblob(500)), '0', '0') || '}'",
        "UPDATE documents SET metadata = '{\"n\": 1e999}'",
        "UPDATE documents SET metadata = '[]'",
        "UPDATE documents SET metadata = CAST(x'7b22ff223a317d' AS TEXT)",
        "UPDATE documents SET text = CAST(x'c3' AS TEXT)",
        "UPDATE documents SET title = char(0) || title",
        "UPDATE documents SET text = ''",
        "UPDATE documents SET text = replace(hex(zeroblob(200000)), '0', 'a') WHERE ordinal < 3",
        "UPDATE documents SET text = x'00ff'",
        "UPDATE documents SET crc = 'x'",
        "UPDATE documents SET crc = 9223372036854775807",
        "UPDATE documents SET id = id || char(10) || '\u202e'",
        "UPDATE documents SET id = ''  WHERE ordinal = 2",
    )
    fields = (
        "DELETE FROM summary",
        "INSERT INTO summary SELECT * FROM summary",
        "UPDATE summary SET documents = 4294967295",
        "UPDATE summary SET all_names = 'x'",
        "DELETE FROM names",
        "UPDATE names SET field = 9223372036854775807 - rowid_of(name)",
        "UPDATE names SET field = NULL",
        "UPDATE names SET field = 0",
        "UPDATE names SET numbers = -1, strings = 9223372036854775807",
        "UPDATE names SET name = '`' || name",
        "UPDATE names SET name = replace(hex(zeroblob(2000)), '00', 'a.') || name",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) "
        "INSERT INTO names SELECT 'f' || i, 1, 0, 0, NULL FROM n",
        "DELETE FROM field_values",
        "UPDATE field_values SET ordinals = x'ffffffff'",
        "UPDATE field_values SET ordinals = zeroblob(100001)",
        "UPDATE field_values SET ordinals = zeroblob(100000)",
        "UPDATE OR IGNORE field_values SET value = 1",
        "UPDATE OR IGNORE field_values SET value = x'02'",
        "UPDATE OR IGNORE field_values SET field = field + 1",
        "UPDATE field_values SET ordinals = 'text'",
    )
    name = rng.choice([name for name in tree.original if name.endswith(".sqlite")])
    chosen = rng.sample(documents if name.endswith("documents.sqlite") else fields, rng.choice((1, 1, 2)))
    mended = rng.random() < 0.8
    sql = ";".join(chosen)
    if mended and name.endswith("documents.sqlite"):
        sql += "; UPDATE documents SET crc = row_crc(ordinal, id, title, text, metadata) WHERE crc IS NOT 'x'"
    return _edit(tree, name, sql, scratch)


def _schema(tree: Tree, rng: random.Random, scratch: Path) -> str:
    """Another schema, with the answers of the old one at hand."""
    name = rng.choice([name for name in tree.original if name.endswith(".sqlite")])
    table = "documents" if name.endswith("documents.sqlite") else rng.choice(("names", "field_values", "summary"))
    moved = f"ALTER TABLE {table} RENAME TO moved; "
    many = "".join(f"CREATE TABLE more{n} (a, b, c);" for n in range(300))
    scripts = [
        f"{moved} CREATE VIEW {table} AS SELECT * FROM moved",
        f"{moved} CREATE VIEW {table} AS SELECT * FROM moved UNION ALL SELECT * FROM moved",
        f"CREATE TRIGGER changes AFTER INSERT ON {table} BEGIN SELECT 1; END",
        f"{moved} CREATE TABLE {table} AS SELECT * FROM moved",
        f"DROP TABLE {table}",
        many,
        "CREATE VIEW more AS SELECT 1",
        f"CREATE INDEX partial ON {table} (1) WHERE 0",
        f"ALTER TABLE {table} ADD COLUMN more TEXT GENERATED ALWAYS AS ('x') VIRTUAL",
        f"ALTER TABLE {table} ADD COLUMN more",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 1",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 999999",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = NULL",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET type = 'view'",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET tbl_name = 'x'",
        "PRAGMA writable_schema = ON; DELETE FROM sqlite_master",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'TEXT', 'BLOB')",
        "PRAGMA user_version = 7; PRAGMA application_id = 7",
    ]
    if table == "documents":
        scripts += ["DROP INDEX documents_id", "PRAGMA page_size = 512; VACUUM", "PRAGMA auto_vacuum = 1; VACUUM"]
    return _edit(tree, name, rng.choice(scripts), scratch)


def _edit(tree: Tree, name: str, sql: str, scratch: Path) -> str:
    path = scratch / "edited.sqlite"
    path.write_bytes(tree.get(name))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.create_function("row_crc", 5, _crc)
    connection.create_function("rowid_of", 1, lambda name: len(str(name)))
    try:
        connection.executescript(sql)
    except sqlite3.Error:
        pass  # as far as it came
    finally:
        connection.close()
        tree.set(name, path.read_bytes())
        path.unlink()
    return f"{name}: {sql[:300]}"


def _crc(ordinal: Any, *fields: Any) -> int:
    try:
        return row_crc(max(0, ordinal) & 0xFFFFFFFF, fields)
    except (AttributeError, TypeError, UnicodeEncodeError):
        return 0


def _pages(tree: Tree, rng: random.Random) -> str:
    """Bytes of a SQLite file: its b-trees may share pages, or go round."""
    name = rng.choice([name for name in tree.original if name.endswith(".sqlite")])
    data = tree.get(name)
    for _ in range(rng.choice((1, 1, 3))):
        kind = rng.choice(("flip", "byte", "noise", "zeros", "move", "page"))
        if kind == "page":  # one in the place of another
            page = max(512, int.from_bytes(data[16:18], "big"))
            pages = [data[i : i + page] for i in range(0, len(data), page)]
            a, b = rng.randrange(len(pages)), rng.randrange(len(pages))
            pages[a] = pages[b]
            data = b"".join(pages)
        else:
            data = changed_bytes(data, kind, rng)
    tree.set(name, data)
    return f"pages of {name}"


def _tokenizer(tree: Tree, rng: random.Random) -> str:
    """Values of a tokenizer's file."""
    name = rng.choice([name for name in tree.original if name.endswith("tokenizer.json")])
    body = json.loads(tree.get(name))
    done = []
    for _ in range(rng.choice((1, 1, 2))):
        places = [p for p in _places(body) if not p[2].startswith("/model/vocab/") or rng.random() < 0.02]
        holder, key, path = rng.choice(places)
        if rng.random() < 0.15:
            del holder[key]
            done.append(f"{path} gone")
        else:
            holder[key] = _any(rng, holder[key])
            done.append(f"{path} = {str(holder[key])[:30]!r}")
    tree.set(name, json.dumps(body).encode())
    return f"values of {name}: {'; '.join(done)}"


def _bytes(body: Any) -> bytes:
    """A manifest with its digest, or as it is where it can have none."""
    try:
        return _manifest(body)
    except (TypeError, AttributeError, ValueError, RecursionError):
        return json.dumps(body).encode("utf-8", "replace")
