"""The seam between the engine and the operating system: one open file, and the names of files.

Everything that can fail, reorder or vanish in a crash goes through these two protocols, so a crash
test is one more implementation of them that remembers what was synced.  Only memory mappings and
byte-range locks go around it, by ``fileno()``: mapped memory holds nothing durable, and a lock dies
with its process.

Promises that each implementation makes:

- ``pwrite`` writes everything or raises.  No room: ``DiskFullError``, and what was there before the
  write may be partly overwritten, as after a crash.
- bytes are durable after ``sync_range`` over them, ``sync_data`` or ``sync_all``; the file's size after
  ``sync_all``; a name after ``sync_dir``.  A sync that fails raises ``OSError`` once: the system may
  forget it then, so nobody may ask again and believe the answer (I7).
- ``write_back`` starts and awaits writing without promising anything; its failure is a failed sync.
- ``start_writing`` is a hint that awaits nothing and never fails; what goes wrong is a failure of the next sync.
- no descriptor survives ``exec``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer
else:
    Buffer = object  # collections.abc.Buffer, from Python 3.12 on

__all__ = ["Backend", "Buffer", "Filesystem", "nbytes"]


def nbytes(data: Buffer) -> int:
    """Bytes of a buffer, at no object for the usual ones."""
    if type(data) is memoryview:
        return data.nbytes
    return len(data) if type(data) is bytes or type(data) is bytearray else memoryview(data).nbytes


class Backend(Protocol):
    """One open file."""

    name: str
    writable: bool

    def fileno(self) -> int:
        """The descriptor, for mappings and locks."""

    def identity(self) -> tuple[int, int]:
        """Device and inode: the same for every way to open the same file."""

    def mode(self) -> int:
        """Permission bits."""

    def owner(self) -> tuple[int, int]:
        """User and group."""

    def links(self) -> int:
        """Names that the file has: more than one by hard links."""

    def size(self) -> int:
        """Bytes, as the file system has it now."""

    def pread(self, n: int, off: int) -> bytes:
        """Bytes [off, off + n), fewer at the file's end."""

    def pwrite(self, data: Buffer, off: int) -> None:
        """Write all of ``data`` at ``off``; DiskFullError when there is no room."""

    def write_back(self, off: int, n: int) -> None:
        """Have the bytes [off, off + n) written and wait for it; promises no durability."""

    def start_writing(self, off: int, n: int) -> None:
        """Have the disk begin to write the bytes [off, off + n), which won't change soon."""

    def sync_range(self, off: int, n: int) -> None:
        """Make the bytes [off, off + n) durable, and nothing else if possible."""

    def sync_data(self) -> None:
        """Make all bytes durable; a changed size need not be."""

    def sync_all(self) -> None:
        """Make all bytes and the size durable."""

    def allocate(self, off: int, n: int) -> None:
        """Reserve room on the medium for [off, off + n), growing the file; keeps what is there."""

    def truncate(self, n: int) -> None:
        """Set the size."""

    def reopen(self) -> Backend:
        """The same file opened anew: own locks, own position, whatever became of its name."""

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""


class Filesystem(Protocol):
    """The names of files."""

    def open(
        self,
        path: str,
        *,
        create: bool = False,
        exclusive: bool = False,
        write: bool = True,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
    ) -> Backend:
        """Open ``path``; ``create`` makes an empty file if missing, ``exclusive`` (with it) insists on that.

        ``mode`` and ``owner`` are given to a file that this call creates (owner as far as permitted).
        """

    def exists(self, path: str) -> bool:
        """Whether the name leads to something."""

    def identity(self, path: str) -> tuple[int, int] | None:
        """Device and inode of what the name leads to, None if nothing."""

    def unlink(self, path: str) -> None:
        """Remove the name; FileNotFoundError if there is none."""

    def rename(self, source: str, target: str) -> None:
        """Move the name atomically; what ``target`` named before loses that name."""

    def link_exclusive(self, source: str, target: str) -> None:
        """Move the name atomically; FileExistsError, and no change, if ``target`` exists."""

    def sync_dir(self, path: str) -> None:
        """Make the names in the folder that holds ``path`` durable."""

    def realpath(self, path: str) -> str:
        """The absolute path without symbolic links: one name for one file."""

    def network(self, path: str) -> str | None:
        """The kind of network file system that holds ``path``, None if it is a local one.

        Locks, mappings and syncs of several machines don't agree there.
        """
