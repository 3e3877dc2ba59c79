"""What becomes of rows that don't fit: an error at the first, or a count and a file of them.

The file holds a JSON object a line: file, line or row, column, value, reason, and for text the record as it stands.
"""

from __future__ import annotations

import json
import os
from typing import BinaryIO

from mmstore.integrations.inputs.base import BadRow

__all__ = ["Rejects", "refuse"]


def refuse(bad: BadRow) -> None:
    """The handler that lets no row be left out."""
    raise bad


class Rejects:
    """Counts rows and writes them down; with `size`, behind the first `size` bytes of a file that is there."""

    def __init__(self, path: str | os.PathLike[str] | None, *, count: int = 0, size: int = 0) -> None:
        self.count = count
        self._file: BinaryIO | None = None
        if path is not None:
            self._file = open(path, "r+b" if size else "wb")
            self._file.truncate(size)
            self._file.seek(size)

    def __call__(self, bad: BadRow) -> None:
        self.count += 1
        if self._file is not None:
            self._file.write(json.dumps(bad.facts(), ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def size(self) -> int:
        """Bytes written so far, all of them out of this process's hands."""
        if self._file is None:
            return 0
        self._file.flush()
        return self._file.tell()

    def close(self) -> None:
        """End the file; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None
