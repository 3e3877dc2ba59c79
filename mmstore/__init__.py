"""One mapped file that is a crash-safe dict and a set of numpy columns, shared by processes.

Only what ``__all__`` names is public.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mmstore.errors import (
    ClosedError,
    CorruptError,
    DiskFullError,
    Error,
    FormatError,
    LockTimeout,
    ReadOnlyError,
    SchemaError,
    SyncError,
    TransactionError,
)

__version__ = "0.1.0"

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
    "compiled",
    "load",
    "nullable",
    "open",
]

_LATE = {
    "open": "mmstore.database",
    "compiled": "mmstore.kernels",
    "load": "mmstore.integrations.load",
    "nullable": "mmstore.columns.types",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'mmstore' has no attribute {name!r}")
