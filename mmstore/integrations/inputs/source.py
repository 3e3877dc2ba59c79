"""Bytes to load from: a file, standard input or a binary file object, unpacked and counted.

Packing is known by its first bytes (gzip, bzip2, zstd, lz4, zip) or its suffix (brotli); a zip archive holds one
file.  What can be read again (files, seekable objects) is opened anew for the sample and for the load;
the sample of a pipe is kept and put before the rest.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, Final, TypeAlias

from mmstore.errors import SchemaError
from mmstore.integrations.inputs.base import require

__all__ = ["SUFFIXES", "Source", "Where"]

Where: TypeAlias = "str | os.PathLike[str] | BinaryIO"

SUFFIXES: Final = (".gz", ".gzip", ".bz2", ".zst", ".zstd", ".lz4", ".br", ".zip")
_MAGIC: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}


class Source:
    """One place to read bytes from; `name`, `size`, `read` as an Input has them."""

    def __init__(self, where: Where, *, unpack: bool = True) -> None:
        self.path = ""
        """The file's path, empty where it isn't a regular file."""
        self.size: int | None = None
        self.read = 0
        self._file: BinaryIO | None = None
        self._start = 0
        self._stream: BinaryIO | None = None
        self._head = b""
        if isinstance(where, str | os.PathLike) and os.fspath(where) != "-":
            self.name = os.fspath(where)
            if os.path.isfile(self.name):
                self.path, self.size = self.name, os.path.getsize(self.name)
            else:
                self._file = open(self.name, "rb", buffering=0)  # a pipe with a name; or an error that says why not
        else:
            self._file = sys.stdin.buffer if isinstance(where, str | os.PathLike) else where
            self.name = "standard input" if self._file is sys.stdin.buffer else _name_of(self._file)
            if self._file.seekable():
                self._start = self._file.tell()
                self.size = self._file.seek(0, io.SEEK_END) - self._start
                self._file.seek(self._start)
        self.again = self._file is None or self._file.seekable()
        """Whether it can be read more than once."""
        self.packing = self._packing(self._raw_head()) if unpack else ""
        """"gzip", "zip" and so on, empty for bytes as they are."""

    def inner_name(self) -> str:
        """The name that tells the format: that of the file in a zip archive, else without the packing's suffix."""
        if self.packing == "zip" and self.again:
            with zipfile.ZipFile(self._raw(None)) as archive:
                return self._member(archive).filename
        stem, suffix = os.path.splitext(self.name)
        return stem if suffix.lower() in SUFFIXES else self.name

    def head(self, n: int) -> bytes:
        """The first `n` bytes, unpacked; fewer where there are fewer."""
        if self.again:
            stream = self._unpacked(None)
            try:
                return _read_full(stream, n)
            finally:
                stream.close()
        if self._stream is None:
            self._stream = self._unpacked(self._count)
        if len(self._head) < n:
            self._head += _read_full(self._stream, n - len(self._head))
        return self._head[:n]

    def open(self, offset: int = 0) -> BinaryIO:
        """The unpacked bytes from `offset` on, to be closed by the caller; a pipe can be opened once."""
        if not self.again:
            self.head(0)
            assert self._stream is not None
            head, self._head = self._head, b""
            stream: Any = _Chained(head, self._stream)
        else:
            self.read = 0
            stream = self._unpacked(self._count)
            if not self.packing and offset:
                self.read = offset
                stream.seek(self._start + offset)
                return stream  # type: ignore[no-any-return]
        while offset > 0:
            skipped = len(stream.read(min(offset, 1 << 20)))
            if not skipped:
                raise SchemaError(f"{self.name} ends before byte {offset:,} behind; it has changed since")
            offset -= skipped
        return stream  # type: ignore[no-any-return]

    def random(self, kind: str) -> Any:
        """A pyarrow file that can be read in any order.

        Raises SchemaError for packed files and pipes, which formats with their index at the end can't be read from.
        """
        pa = require("pyarrow", "arrow")
        if self.packing or not self.again:
            what = f"packed with {self.packing}" if self.packing else "a pipe"
            raise SchemaError(f"{kind} is read from its end, but {self.name} is {what}; make it a plain file first")
        if self.path:
            return pa.OSFile(self.path)
        assert self._file is not None
        self._file.seek(self._start)
        return pa.PythonFile(_Counted(self._file, None, own=False), mode="r")

    def random_binary(self, kind: str) -> BinaryIO:
        """The same as a Python file."""
        if self.packing or not self.again:
            raise SchemaError(f"{kind} is read from its end, but {self.name} is packed or a pipe; make it a plain file")
        return io.BufferedReader(self._raw(self._count), 1 << 20)

    # --- layers: the raw bytes, counted, unpacked -----------------------------------------------------

    def _count(self, n: int) -> None:
        self.read += n

    def _raw_head(self) -> bytes:
        if self.path:
            with open(self.path, "rb", buffering=0) as file:
                return file.read(8)
        assert self._file is not None
        if self.again:
            data = self._file.read(8)
            self._file.seek(self._start)
            return data
        if not isinstance(self._file, io.BufferedReader):
            self._file = io.BufferedReader(_Counted(self._file, None, own=False), 1 << 20)
        return self._file.peek(8)

    def _packing(self, head: bytes) -> str:
        if self.name.lower().endswith(".br"):
            return "brotli"
        return next((packing for magic, packing in _MAGIC.items() if head.startswith(magic)), "")

    def _raw(self, count: Callable[[int], None] | None) -> _Counted:
        if self.path:
            return _Counted(open(self.path, "rb", buffering=0), count, own=True)
        assert self._file is not None
        if self.again:
            self._file.seek(self._start)
        return _Counted(self._file, count, own=False)

    def _unpacked(self, count: Callable[[int], None] | None) -> Any:
        raw = self._raw(count)
        if not self.packing:
            return raw
        if self.packing == "zip":
            if not self.again:
                raise SchemaError(f"a zip archive is read from its end, but {self.name} is a pipe; unpack it before")
            archive = zipfile.ZipFile(io.BufferedReader(raw, 1 << 20))
            return archive.open(self._member(archive))
        pa = require("pyarrow", "arrow")
        return _Unpacked(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), self.packing), self.name, self.packing)

    def _member(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        files = [member for member in archive.infolist() if not member.is_dir()]
        if len(files) != 1:
            names = ", ".join(repr(member.filename) for member in files[:5])
            raise SchemaError(f"expected one file in {self.name}, found {len(files)} ({names}); unpack it and name one")
        return files[0]


def _name_of(file: Any) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else "the file object"


def _read_full(stream: Any, n: int) -> bytes:
    """`n` bytes, fewer only at the end."""
    parts: list[bytes] = []
    while n > 0 and (part := stream.read(n)):
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


class _Counted(io.RawIOBase):
    """A binary file that tells how much was read of it; one that isn't its own is left open."""

    def __init__(self, file: Any, count: Callable[[int], None] | None, *, own: bool) -> None:
        self._inner, self._tell, self._own = file, count, own

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._inner.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def readinto(self, buffer: Any) -> int:
        n = self._inner.readinto(buffer) or 0
        if self._tell is not None:
            self._tell(n)
        return n

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._own:
                self._inner.close()


class _Unpacked(io.RawIOBase):
    """pyarrow's stream of unpacked bytes; what it says of broken ones becomes a SchemaError that names the file."""

    def __init__(self, stream: Any, name: str, packing: str) -> None:
        self._stream, self._name, self._packing = stream, name, packing

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except OSError as error:
            if error.errno is not None:  # the system's
                raise
            raise SchemaError(f"{self._name} can't be unpacked with {self._packing}: {error}") from error

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stream.close()


class _Chained(io.RawIOBase):
    """The bytes that were read ahead, then the rest."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = memoryview(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._head:
            return int(self._rest.readinto(buffer) or 0)
        n = min(len(buffer), len(self._head))
        buffer[:n] = self._head[:n]
        self._head = self._head[n:]
        return n
