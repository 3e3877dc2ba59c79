"""The three structs of the Arrow C data and C stream interface, as ctypes sees them.

Callbacks and pointers are plain addresses; 0 reads as None.  The members are named and explained in
https://arrow.apache.org/docs/format/CDataInterface.html and CStreamInterface.html.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["KEYS_SORTED", "NAMES", "NULLABLE", "ORDERED", "Array", "Schema", "Stream"]

NAMES: Final = (b"arrow_schema", b"arrow_array", b"arrow_array_stream")
"""Of the capsules, by kind."""

ORDERED: Final = 1
"""Flag of a schema: the order of its dictionary means something."""
NULLABLE: Final = 2
KEYS_SORTED: Final = 4

_pointer, _number = ctypes.c_void_p, ctypes.c_int64


class Schema(ctypes.Structure):
    """A type and a name."""

    _fields_ = [
        ("format", _pointer),
        ("name", _pointer),
        ("metadata", _pointer),
        ("flags", _number),
        ("n_children", _number),
        ("children", _pointer),
        ("dictionary", _pointer),
        ("release", _pointer),
        ("private_data", _pointer),
    ]


class Array(ctypes.Structure):
    """The values of one batch."""

    _fields_ = [
        ("length", _number),
        ("null_count", _number),
        ("offset", _number),
        ("n_buffers", _number),
        ("n_children", _number),
        ("buffers", _pointer),
        ("children", _pointer),
        ("dictionary", _pointer),
        ("release", _pointer),
        ("private_data", _pointer),
    ]


class Stream(ctypes.Structure):
    """Batches of one schema, one after the other."""

    _fields_ = [
        ("get_schema", _pointer),
        ("get_next", _pointer),
        ("get_last_error", _pointer),
        ("release", _pointer),
        ("private_data", _pointer),
    ]
