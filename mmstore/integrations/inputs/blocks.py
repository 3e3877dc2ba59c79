"""Text cut into blocks of whole records, and the records of a block.

A newline ends a record unless it stands inside quotes.  As pyarrow reads CSV, a quote opens a value only at its
beginning: behind a delimiter or a newline; elsewhere it is a letter like any other (5" disk).  Inside quotes
two quotes are one letter.  Then quotes come in pairs, and whether a place is inside them is told by how many
stand before it; where a stray quote breaks the pairs, they are gone through one by one.

The text of a block lives in a buffer that is used again for the next one.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mmstore.errors import SchemaError

__all__ = ["CsvCutter", "LineCutter", "Transcoded", "blocks", "count_of"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Places: TypeAlias = npt.NDArray[np.int64]

QUOTE: Final = 0x22
NEWLINE: Final = 0x0A
RETURN: Final = 0x0D
LONGEST: Final = 64 << 20
"""Bytes of one record; a quote that is never closed must not read a whole file into memory."""


class LineCutter:
    """Records are lines."""

    newline = NEWLINE

    def whole(self, text: Bytes) -> int:
        """How many bytes of `text`, which begins with a record, are whole records."""
        return _Finder(text).rfind(self.newline) + 1

    def ends(self, text: Bytes) -> Places:
        """Where the records end, one behind their newline; the last one may lack it."""
        return _closed(np.flatnonzero(text == self.newline) + 1, len(text))


class CsvCutter(LineCutter):
    """Records are lines unless a newline is quoted."""

    def __init__(self, delimiter: bytes, newline: int = NEWLINE) -> None:
        self.delimiter, self.newline = delimiter[0], newline

    def whole(self, text: Bytes) -> int:
        data = _Finder(text)
        last = data.rfind(self.newline)
        if last < 0 or data.find(QUOTE) < 0:
            return last + 1
        opens, closes = self._quoted(text)
        while last >= 0:
            before = int(np.searchsorted(opens, last)) - 1
            if before < 0 or last > closes[before]:
                return last + 1
            last = data.rfind(self.newline, int(opens[before]))
        return 0

    def ends(self, text: Bytes) -> Places:
        newlines = np.flatnonzero(text == self.newline)
        opens, closes = self._quoted(text)
        if len(opens):
            before = np.searchsorted(opens, newlines) - 1
            newlines = newlines[(before < 0) | (newlines > closes[before])]
        return _closed(newlines + 1, len(text))

    def _quoted(self, text: Bytes) -> tuple[Places, Places]:
        """Places of the quotes that open and close values; one that isn't closed closes at the end of `text`."""
        quotes = np.flatnonzero(text == QUOTE)
        opens, closes = quotes[0::2], quotes[1::2]
        if len(closes) < len(opens):
            closes = np.append(closes, len(text))
        if not len(opens):
            return opens, closes
        before = text[opens - 1]
        begins = (before == self.delimiter) | (before == NEWLINE) | (before == RETURN)
        begins[0] |= opens[0] == 0
        begins[1:] |= opens[1:] == closes[:-1] + 1  # two quotes inside quotes
        if begins.all():
            return opens, closes
        return self._one_by_one(text, quotes.tolist())

    def _one_by_one(self, text: Bytes, quotes: list[int]) -> tuple[Places, Places]:
        opens, closes, i = [], [], 0
        starts = {self.delimiter, NEWLINE, RETURN}
        while i < len(quotes):
            place = quotes[i]
            i += 1
            if place and int(text[place - 1]) not in starts:
                continue
            while i + 1 < len(quotes) and quotes[i + 1] == quotes[i] + 1:
                i += 2
            opens.append(place)
            closes.append(quotes[i] if i < len(quotes) else len(text))
            i += 1
        return np.array(opens, np.int64), np.array(closes, np.int64)


def _closed(ends: Places, length: int) -> Places:
    return ends if not length or (len(ends) and ends[-1] == length) else np.append(ends, length)


class _Finder:
    """`find` and `rfind` of one byte in an array, looking at pieces so that the first hit is found early."""

    PIECE: Final = 1 << 16

    def __init__(self, text: Bytes) -> None:
        self._text = text

    def find(self, byte: int) -> int:
        for start in range(0, len(self._text), self.PIECE):
            found = self._text[start : start + self.PIECE].tobytes().find(byte)
            if found >= 0:
                return start + found
        return -1

    def rfind(self, byte: int, stop: int | None = None) -> int:
        stop = len(self._text) if stop is None else stop
        while stop > 0:
            start = max(0, stop - self.PIECE)
            found = self._text[start:stop].tobytes().rfind(byte)
            if found >= 0:
                return start + found
            stop = start
        return -1


def blocks(stream: BinaryIO, cut: LineCutter, size: int, name: str) -> Iterator[Bytes]:
    """Blocks of whole records of about `size` bytes.

    The array is the stream's buffer: it holds until the next block is asked for.
    Raises SchemaError when a record is longer than LONGEST.
    """
    buffer = bytearray(size)
    filled, offset, ended = 0, 0, False
    while True:
        while filled < len(buffer) and not ended:
            with memoryview(buffer) as view:
                n = stream.readinto(view[filled:])  # type: ignore[attr-defined]
            filled += n or 0
            ended = not n
        text = np.frombuffer(buffer, np.uint8, filled)
        whole = filled if ended else cut.whole(text)
        if whole:
            yield text[:whole]
            offset += whole
            rest = text[whole:].tobytes()
            del text
            buffer[: len(rest)] = rest
            filled = len(rest)
        if ended:
            return
        if not whole:
            del text
            if len(buffer) >= LONGEST:
                raise SchemaError(
                    f"{name}: the record at byte {offset:,} has more than {LONGEST:,} bytes; "
                    "is a quote missing, or the delimiter another one?"
                )
            buffer = buffer + bytearray(len(buffer))


def count_of(text: Bytes, byte: int) -> int:
    """How often a byte occurs.  In one go: whoever calls numpy often waits for the interpreter often."""
    return int(np.count_nonzero(text == byte))


class Transcoded(io.RawIOBase):
    """Text of another encoding, read as UTF-8."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream, self._decoder, self._left = stream, codecs.getincrementaldecoder(encoding)(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        ended = False
        while not self._left and not ended:
            data = self._stream.read(1 << 20)
            ended = not data
            self._left = self._decoder.decode(data, final=ended).encode()
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stream.close()
