"""Which format an input has: by name, by its suffix, by its first bytes; and globs."""

from __future__ import annotations

import dbm
import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mmstore import format as fmt
from mmstore.errors import SchemaError
from mmstore.integrations.inputs.arrays import NumpyInput
from mmstore.integrations.inputs.base import Input
from mmstore.integrations.inputs.columnar import ArrowInput, ParquetInput
from mmstore.integrations.inputs.delimited import CsvInput
from mmstore.integrations.inputs.jsonlines import JsonInput
from mmstore.integrations.inputs.records import DbmInput, LmdbInput, ShelveInput
from mmstore.integrations.inputs.source import SUFFIXES, Source, Where
from mmstore.integrations.inputs.stores import StoreInput

__all__ = ["FORMATS", "Reading", "expand", "open_input"]

FORMATS: Final = ("csv", "tsv", "jsonl", "parquet", "arrow", "npy", "npz", "mms", "lmdb", "dbm", "shelve")

_SUFFIX: Final = {
    ".csv": "csv", ".txt": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".arrows": "arrow", ".ipc": "arrow",
    ".feather": "arrow", ".npy": "npy", ".npz": "npz", ".mms": "mms", ".mdb": "lmdb", ".lmdb": "lmdb",
}  # fmt: skip
_ALIAS: Final = {"json": "jsonl", "ndjson": "jsonl", "feather": "arrow", "ipc": "arrow", "store": "mms"}
_MAGIC: Final = {
    b"PAR1": "parquet", b"ARROW1": "arrow", b"FEA1": "arrow", b"\xff\xff\xff\xff": "arrow", b"\x93NUMPY": "npy",
    fmt.MAGIC: "mms", b"{": "jsonl",
}  # fmt: skip
_LMDB: Final = b"\xde\xc0\xef\xbe"


@dataclass(frozen=True)
class Reading:
    """How inputs are to be read."""

    format: str | None = None
    delimiter: str | None = None
    names: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    part: str | None = None
    unpickle: bool = False
    raw: bool = False
    """Whether values are taken as the bytes that they are, pickles too."""
    table: str | None = None
    """The target, whose name a table of another store is looked for under."""

    def wanted(self) -> str | None:
        """The format in its own name; ValueError for one that isn't known."""
        if self.format is None:
            return "shelve" if self.unpickle else None
        name = _ALIAS.get(self.format.lower(), self.format.lower())
        if name not in FORMATS:
            raise ValueError(f"expected a format among {', '.join(FORMATS)}, found {self.format!r}")
        return "shelve" if name == "dbm" and self.unpickle else name


def expand(where: Where) -> list[Where]:
    """The files that a glob stands for, sorted; anything else as it is."""
    if isinstance(where, str) and glob.has_magic(where) and not os.path.lexists(where):
        found = sorted(glob.glob(where, recursive=True))
        if not found:
            raise FileNotFoundError(f"no file matches {where!r}")
        return [*found]
    return [where]


def open_input(where: Where, how: Reading) -> Input:
    """One input, opened; the caller closes it.  Raises SchemaError where its format isn't known or doesn't hold."""
    kind = how.wanted() or _by_name(where)
    if kind in ("mms", "lmdb", "dbm", "shelve"):
        if not isinstance(where, str | os.PathLike) or os.fspath(where) == "-":
            raise SchemaError(f"a {kind} can only be read from a file with a name")
        return _open_named(kind, os.fspath(where), how)
    source = Source(where, unpack=kind != "npz")
    kind = kind or _by_content(source)
    if kind == "mms":
        return _open_named(kind, source.path, how)
    makers: dict[str, Callable[[], Input]] = {
        "csv": lambda: CsvInput(source, how.delimiter or ",", _list(how.names), how.encoding),
        "tsv": lambda: CsvInput(source, how.delimiter or "\t", _list(how.names), how.encoding),
        "jsonl": lambda: JsonInput(source),
        "parquet": lambda: ParquetInput(source),
        "arrow": lambda: ArrowInput(source),
        "npy": lambda: NumpyInput(source),
        "npz": lambda: NumpyInput(source, archive=True),
    }
    return makers[kind]()


def _open_named(kind: str, path: str, how: Reading) -> Input:
    if kind == "shelve" and not how.unpickle:
        raise SchemaError(f"{path}: a shelve runs code; if you trust it, pass unpickle=True (--unpickle)")
    if kind == "mms":
        return StoreInput(path, how.part, table=how.table)
    if kind == "lmdb":
        return LmdbInput(path, how.part)
    return ShelveInput(path) if kind == "shelve" else DbmInput(path, raw=how.raw)


def _list(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _by_name(where: Any) -> str:
    """The format that the name tells, empty if none does."""
    if not isinstance(where, str | os.PathLike) or os.fspath(where) == "-":
        return ""
    path = os.fspath(where)
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "data.mdb")):
            return "lmdb"
        raise SchemaError(f"{path} is a folder; name its files, as in '{path}/*.parquet'")
    stem, suffix = os.path.splitext(path)
    if suffix.lower() in SUFFIXES:
        suffix = os.path.splitext(stem)[1]
    kind = _SUFFIX.get(suffix.lower(), "")
    if kind or os.path.isfile(f"{path}.dat") or os.path.isfile(f"{path}.db") or os.path.isfile(f"{path}.pag"):
        return kind or "dbm"
    if os.path.isfile(path):
        with open(path, "rb", buffering=0) as file:
            if _LMDB in file.read(32):
                return "lmdb"
        if dbm.whichdb(path):
            return "dbm"
    return ""


def _by_content(source: Source) -> str:
    """The format of bytes without a telling name; a pipe of no other kind is taken for CSV."""
    inner = _SUFFIX.get(os.path.splitext(source.inner_name())[1].lower(), "")
    if inner:
        return inner
    head = source.head(16)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if not source.path:
        return "csv"
    raise SchemaError(f"can't tell the format of {source.name} by its name; pass format= (--format), as in csv")
