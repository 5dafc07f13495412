"""A SQLite file that may come from a stranger: its schema must be ours, and no statement may work without bounds.

SQLite runs what a schema says: a view in the place of a table answers with whatever its author wrote, for ever if he
likes. Overflow chains and b-trees may share pages, so that a small file holds rows without end. So the schema is
compared before anything is read, and every statement has a budget, in steps and in bytes, by the size of the file.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

Row = tuple[Any, ...]

_PRAGMAS = ("trusted_schema=OFF", "query_only=ON", "cell_size_check=ON", "mmap_size=0")
_STEPS_AT_A_TIME = 100_000  # between two looks at the budget
# Our statements take some 20 steps of SQLite's virtual machine a row, and a row some 20 bytes; none sorts.
_STEPS, _STEPS_A_BYTE = 2_000_000, 20
_BYTES = 1 << 16
_SQL_BYTES = 10_000  # our longest statement has 1,200
_EXPRESSION_DEPTH = 50
_LENGTH = 64 << 20  # of a value that is looked for


class Limits:
    """What a connection to a file of ``size`` bytes may do. Not safe from several threads."""

    def __init__(self, connection: sqlite3.Connection, size: int) -> None:
        self.size = size
        self._steps = 0
        connection.set_progress_handler(self._step, _STEPS_AT_A_TIME)
        set_limit = connection.setlimit
        set_limit(sqlite3.SQLITE_LIMIT_LENGTH, max(size, _LENGTH))  # a row lies within the file
        set_limit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _SQL_BYTES)
        set_limit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, _EXPRESSION_DEPTH)
        set_limit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        set_limit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0)
        set_config = getattr(connection, "setconfig", None)  # from Python 3.12
        if set_config is not None:
            for name, value in (
                ("DEFENSIVE", True), ("TRUSTED_SCHEMA", False), ("ENABLE_VIEW", False), ("ENABLE_TRIGGER", False),
            ):  # fmt: skip
                with contextlib.suppress(AttributeError, sqlite3.Error):  # an older SQLite
                    set_config(getattr(sqlite3, f"SQLITE_DBCONFIG_{name}"), value)
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    def begin(self) -> None:
        """A statement, or a part of one, begins: it has a budget of its own."""
        self._steps = 0

    def _step(self) -> bool:
        self._steps += _STEPS_AT_A_TIME
        return self._steps > _STEPS + _STEPS_A_BYTE * self.size  # True: SQLite ends with "interrupted"

    def rows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows of one statement, as long as they can all lie in the file. Raises sqlite3.DatabaseError."""
        left = 2 * self.size + _BYTES  # a text of UTF-16 is longer in UTF-8
        for row in rows:
            left -= 1
            for value in row:
                if type(value) is str or type(value) is bytes:
                    left -= len(value)
            if left < 0:
                raise sqlite3.DatabaseError("it gives more than it holds")
            yield row


def check_schema(found: Iterable[Row], schema: str | None) -> str | None:
    """What is wrong with the rows (type, name, sql) of a file's schema, which should be that of the statements
    ``schema`` (None: tables and indexes, of whatever form); None if nothing is.
    """
    if schema is None:
        return next((f"its schema has a {kind}" for kind, _, _ in found if kind not in ("table", "index")), None)
    wanted = {_plain(statement) for statement in schema.split(";") if statement.strip()}
    objects = [(kind, sql) for kind, _, sql in found if sql is not None]  # without SQLite's own indexes
    for kind, sql in objects:
        if kind not in ("table", "index") or not isinstance(sql, str):
            return f"its schema has a {kind}"
        if _plain(sql) not in wanted:
            return "its schema is another"
    missing = wanted - {_plain(sql) for _, sql in objects}
    return "its schema lacks a table or an index" if missing else None


def _plain(sql: str) -> str:
    """A statement without differences of white space; an index may be unique or not."""
    return " ".join(sql.replace("CREATE UNIQUE INDEX", "CREATE INDEX").split())
