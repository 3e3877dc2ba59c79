"""LMDB environments, dbm files and shelves: keys and values, as the columns `key` and `value`.

LMDB and dbm give bytes as they are.  A shelve is a dbm of pickles, and a pickle runs code when it is opened:
only `unpickle` allows that.  Its dicts become rows of their own columns beside `key`.
"""

from __future__ import annotations

import dbm
import itertools
import os
import pickle
from collections.abc import Iterator
from typing import Any, Final

from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import BATCH_BYTES, BadRow, Input, Mark, Plan, require

__all__ = ["DbmInput", "LmdbInput", "ShelveInput", "pair_batches", "pair_schema"]

PAIRS: Final = 1 << 14
"""Records fetched at once."""
SAMPLE: Final = 10_000
"""Values of a shelve that its types are guessed from."""


def pair_schema() -> Any:
    """Columns `key` and `value`, both bytes."""
    import pyarrow as pa

    return pa.schema([pa.field(name, pa.large_binary(), nullable=False) for name in ("key", "value")])


def pair_batches(pairs: Iterator[tuple[bytes, bytes]], plan: Plan, start: Mark) -> Iterator[tuple[Any, Mark]]:
    """Keys and values as batches of at most PAIRS records or about BATCH_BYTES."""
    import pyarrow as pa

    rows = start.rows
    pairs = itertools.islice(pairs, rows, None)
    keys: list[bytes] = []
    values: list[bytes] = []
    room = BATCH_BYTES

    def made() -> Any:
        batch = pa.RecordBatch.from_arrays(
            [pa.array(keys, pa.large_binary()), pa.array(values, pa.large_binary())], schema=pair_schema()
        )
        return batch.select(list(plan.types))

    for key, value in pairs:
        keys.append(key)
        values.append(value)
        room -= len(key) + len(value)
        if room <= 0 or len(keys) == PAIRS:
            yield made(), Mark(rows)
            rows += len(keys)
            keys, values, room = [], [], BATCH_BYTES
    if keys:
        yield made(), Mark(rows)


class _Pairs(Input):
    """Keys and values as bytes."""

    records = True
    count: int | None = None
    """Records in all, where that is known."""

    def schema(self) -> Any:
        return pair_schema()

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        raise NotImplementedError

    def batches(self, plan: Plan, start: Mark) -> Iterator[tuple[Any, Mark]]:
        plan.check_names(self.name, ["key", "value"])
        for batch, mark in pair_batches(self.pairs(), plan, start):
            if self.count and self.size:
                self.read = min(self.size, int(self.size * (mark.rows + batch.num_rows) / self.count))
            yield batch, mark


class LmdbInput(_Pairs):
    """An LMDB environment: a folder with data.mdb, or a file; `part` is one of its named databases."""

    def __init__(self, path: str, part: str | None = None) -> None:
        require("pyarrow", "arrow")
        lmdb = require("lmdb", "lmdb")
        folder = os.path.isdir(path)
        data = os.path.join(path, "data.mdb") if folder else path
        lock = os.path.exists(os.path.join(path, "lock.mdb") if folder else f"{path}-lock")
        self.name, self.size = path, os.path.getsize(data)
        try:  # without a lock file nobody has it open for writing, and none is made
            self._environment = lmdb.open(path, subdir=folder, readonly=True, lock=lock, max_dbs=1024, create=False)
        except lmdb.Error as error:
            raise SchemaError(f"{path} can't be read as an LMDB environment: {error}") from error
        try:
            self._database = self._choose(lmdb, part)
            with self._environment.begin(db=self._database) as txn:
                self.count = txn.stat(self._database)["entries"]
        except BaseException:
            self._environment.close()
            raise

    def _choose(self, lmdb: Any, part: str | None) -> Any:
        """The database `part`; else the main one, or the only named one where it holds nothing but names."""
        if part is not None:
            try:
                return self._environment.open_db(part.encode(), create=False)
            except lmdb.NotFoundError:
                raise SchemaError(f"{self.name} has no database {part!r}; it has {self._listed(lmdb)}") from None
        names = self._names(lmdb)
        if len(names) > 1:
            raise SchemaError(f"{self.name} has the databases {self._listed(lmdb)}; choose one with part= (--from)")
        return self._environment.open_db(names[0] if names else None, create=False)

    def _names(self, lmdb: Any) -> list[bytes]:
        """Names of its databases; none if the main one has records of its own."""
        with self._environment.begin() as txn:
            keys = list(itertools.islice(txn.cursor().iternext(values=False), 1024))
        for key in keys:
            try:
                self._environment.open_db(key, create=False)
            except (lmdb.Error, ValueError):
                return []
        return keys

    def _listed(self, lmdb: Any) -> str:
        return ", ".join(repr(name.decode("utf-8", "replace")) for name in self._names(lmdb)) or "only records"

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        with self._environment.begin(db=self._database) as txn:
            yield from txn.cursor()

    def close(self) -> None:
        self._environment.close()


class DbmInput(_Pairs):
    """A dbm file of whatever kind Python's dbm opens; values that look like pickles are refused unless `raw`."""

    def __init__(self, path: str, *, raw: bool = False) -> None:
        require("pyarrow", "arrow")
        self.name = path
        self._file = _opened(path)
        self.size = next((os.path.getsize(file) for file in _files(path) if os.path.isfile(file)), None)
        first = next(self.pairs(), (b"", b""))[1]
        if not raw and first.startswith(b"\x80") and first.endswith(b"."):
            self.close()
            raise SchemaError(
                f"{path} looks like a shelve: its values are pickles, which run code when they are opened; if you "
                "trust it, pass unpickle=True (--unpickle); value_format='raw' (--value-format raw) takes the bytes"
            )

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        for key in _keys(self._file):
            yield key, self._file[key]

    def close(self) -> None:
        self._file.close()


class ShelveInput(Input):
    """A shelve, which runs the code in its pickles."""

    def __init__(self, path: str) -> None:
        require("pyarrow", "arrow")
        self.name = path
        self._file = _opened(path)
        self.size = None
        self._schema: Any = None

    def schema(self) -> Any:
        """Types of the first SAMPLE values, all nullable but the key."""
        import pyarrow as pa

        if self._schema is None:
            rows = list(itertools.islice(self._rows(), SAMPLE))
            names = dict.fromkeys(name for row in rows for name in row)
            fields = [pa.field("key", pa.string(), nullable=False)]
            for name in names:
                if name != "key":
                    try:
                        kind = pa.array([row.get(name) for row in rows]).type
                    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                        raise SchemaError(f"{self.name}, column {name!r}: values of several types: {error}") from error
                    fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
            self._schema = pa.schema(fields)
            self.records = set(self._schema.names) == {"key", "value"} and (
                pa.types.is_binary(self._schema.field("value").type)
                or pa.types.is_string(self._schema.field("value").type)
            )
        return self._schema

    def _rows(self) -> Iterator[dict[str, Any]]:
        for key in _keys(self._file):
            try:
                value = pickle.loads(self._file[key])
            except (pickle.UnpicklingError, EOFError) as error:
                raise SchemaError(f"{self.name}, key {key!r}: its value is no pickle: {error}") from error
            row = value if isinstance(value, dict) else {"value": value}
            yield {**{str(name): part for name, part in row.items()}, "key": key.decode("utf-8", "backslashreplace")}

    def batches(self, plan: Plan, start: Mark) -> Iterator[tuple[Any, Mark]]:
        import pyarrow as pa

        plan.check_names(self.name, self.schema().names)
        kinds = {name: self.schema().field(name).type for name in plan.types}
        rows = itertools.islice(self._rows(), start.rows, None)
        at = start.rows
        while some := list(itertools.islice(rows, PAIRS)):
            good = []
            for number, row in enumerate(some, at):
                wrong = _misfit(pa, row, kinds, self.schema().names)
                if wrong is None:
                    good.append(row)
                else:
                    plan.bad(BadRow(self.name, wrong[1], row=number, column=wrong[0], value=repr(row.get(wrong[0]))))
            columns = [pa.array([row.get(name) for row in good], kind) for name, kind in kinds.items()]
            yield pa.RecordBatch.from_arrays(columns, names=list(kinds)), Mark(at)
            at += len(some)

    def close(self) -> None:
        self._file.close()


def _misfit(pa: Any, row: dict[str, Any], kinds: dict[str, Any], known: list[str]) -> tuple[str, str] | None:
    """(column, what is wrong) of a row that doesn't fit."""
    for name in row:
        if name not in known:
            return name, f"isn't in the first {SAMPLE:,} values"
    for name, kind in kinds.items():
        try:
            pa.scalar(row.get(name), kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return name, f"is no {kind}"
    return None


def _files(path: str) -> list[str]:
    """The files that a dbm of this name may consist of."""
    return [path, f"{path}.db", f"{path}.dat", f"{path}.pag"]


def _opened(path: str) -> Any:
    kind = dbm.whichdb(path)
    if not kind:
        stem, suffix = os.path.splitext(path)
        if suffix in (".db", ".dat", ".dir", ".pag") and dbm.whichdb(stem):
            return dbm.open(stem, "r")
        raise SchemaError(f"{path} can't be read as a dbm file: of no kind that this Python knows")
    try:
        return dbm.open(path, "r")
    except dbm.error as error:
        raise SchemaError(f"{path} can't be read as a dbm file: {error}") from error


def _keys(file: Any) -> Iterator[bytes]:
    """One after the other where the kind allows that; else from a list."""
    if hasattr(file, "firstkey"):
        key = file.firstkey()
        while key is not None:
            yield key
            key = file.nextkey(key)
    else:
        yield from file.keys()
