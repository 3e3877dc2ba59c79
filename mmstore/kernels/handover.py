"""Arrow structs in the hands of others: the callbacks that they call, and what keeps the memory alive till then.

A consumer calls `release` when it likes: in any thread, with the GIL or without, while an exception is raised,
inside the garbage collector, while the interpreter ends or after it has ended.  Python code can't be run in all of
these (a ctypes callback loses an exception that is being raised, and the interpreter crashes over that), so
compiled the callbacks are C, in ``handover.h``, and touch Python objects only where that is safe.

::

    block     live | owner | next | root struct | whatever the root points to: other structs, pointers ...

`live` counts the structs of a block that were not released, and the capsule that brings the root.  Whoever takes
the count to zero drops the owner, the Python object that keeps the block and everything that its structs show.  A
thread that may not touch Python objects puts the block in a list instead; the main thread is asked to come by, and
so does whoever makes the next block.  When the interpreter ends, blocks that are still out stay where they are.

Nobody can tell from here where a consumer has moved a struct to, so a block's structs share their memory: a column
that was moved out of its table keeps the memory of the whole batch.

A stream's owner has ``put_schema(out)`` and ``put_next(out)``, which return an errno, and ``error``, the message in
bytes or None.  A KeyboardInterrupt in them becomes EINTR and is raised again when the consumer is through.

Uncompiled the callbacks are ctypes', in ``plain_handover.py``, with the limits that it names.
"""

# ruff: noqa: F405 - the mms_ functions come from the .pxd, or from the star import at the end

from __future__ import annotations

import atexit
import os
from types import FunctionType
from typing import Any

__all__ = ["ARRAY", "HEAD", "SCHEMA", "STREAM", "STREAM_CALLBACKS", "callback", "capsule", "forked", "leave", "move"]

SCHEMA = 0
ARRAY = 1
STREAM = 2

STREAM_CALLBACKS = (3, 4, 5, 2)
"""What `callback` calls those of a stream, in the order of its struct."""

HEAD = 3
"""Words of 8 bytes before the root struct of a block."""


def capsule(kind: int, at: int, owner: object, live: int) -> Any:
    """A capsule with the root struct of the block at address ``at``; the block is in its hands from here on.

    kind: of the structs, SCHEMA, ARRAY or STREAM; live: how many there are.
    """
    return mms_capsule(kind, at, owner, live)


def move(kind: int, at: int, owner: object, live: int, out: int) -> None:
    """Move the root struct of the block at ``at`` to the address ``out``; the block is in its hands from here on."""
    mms_move(kind, at, owner, live, out)


def callback(which: int) -> int:
    """Address of the C function that releases structs of a kind, or of one of STREAM_CALLBACKS."""
    return mms_callback(which)


def leave() -> None:
    """The interpreter is about to end: from here on, only a thread that has the GIL drops anything or gets a batch."""
    mms_leave()


def forked() -> None:
    """This is the child of a fork: other threads that were in here are not."""
    mms_forked()


if isinstance(leave, FunctionType):  # not compiled: what the .pxd declares is missing
    from mmstore.kernels.plain_handover import *  # noqa: F403 - C names can't be assigned one by one

atexit.register(leave)
os.register_at_fork(after_in_child=forked)
