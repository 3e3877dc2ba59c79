"""Every exception mmstore raises, grouped by when it can happen.

Each message says what was expected, what was found, and what to do.  A wrong argument is a plain
``TypeError`` or ``ValueError`` and a missing key a ``KeyError``; those are Python's own.
"""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "CorruptError",
    "DiskFullError",
    "Error",
    "FormatError",
    "LockTimeout",
    "ReadOnlyError",
    "SchemaError",
    "SyncError",
    "TransactionError",
]


class Error(Exception):
    """Above all others."""


# --- when a file is opened or read -------------------------------------------------------------------


class FormatError(Error):
    """The file is not an mmstore file, or was made by a newer version than this one."""


class CorruptError(Error):
    """Bytes in the file contradict their checksum or each other.

    ``page`` is the page number and ``offset`` the byte offset in the file, where known.
    """

    def __init__(self, message: str, *, page: int | None = None, offset: int | None = None) -> None:
        super().__init__(message)
        self.page = page
        self.offset = offset

    def __reduce__(self) -> tuple[object, ...]:
        return (_corrupt, (str(self), self.page, self.offset))


def _corrupt(message: str, page: int | None, offset: int | None) -> CorruptError:
    return CorruptError(message, page=page, offset=offset)


# --- when a handle is used ---------------------------------------------------------------------------


class ClosedError(Error):
    """The database, transaction or snapshot has been closed, or was inherited through a fork."""


class ReadOnlyError(Error):
    """A write through a handle that was opened with flag "r", or through a snapshot."""


class LockTimeout(Error, TimeoutError):
    """The lock asked for was not to be had within ``timeout`` seconds."""


class TransactionError(Error):
    """A transaction is used in a way that would deadlock or that came too late."""


class SchemaError(Error, ValueError):
    """A table's columns and the data offered to it do not fit each other."""


# --- when the medium fails ---------------------------------------------------------------------------


class DiskFullError(Error, OSError):
    """There is no room to grow; nothing was changed and reading goes on."""


class SyncError(Error, OSError):
    """A sync failed: what reached the disk is unknown, so the store takes no writes until it was
    closed by all and recovered by the next to open it."""
