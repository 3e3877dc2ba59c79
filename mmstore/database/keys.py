"""What may be a key, a value and a name, and how numpy arrays stand for many keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_KEY", "check_key", "check_value", "key_list", "name_bytes", "packed_keys", "packed_list", "value_list"]

MAX_KEY = 65535
_PLAIN = (bytes, bytearray, memoryview)


def check_key(key: Any) -> Any:
    """``key`` as a contiguous bytes-like object; TypeError or ValueError where it can't be one."""
    if type(key) is not bytes:
        key = _bytes_like(key, "key")
    if len(key) > MAX_KEY:
        raise ValueError(f"a key has at most {MAX_KEY} bytes, this one has {len(key)}; store a hash of it instead")
    return key


def check_value(value: Any) -> Any:
    """``value`` as a contiguous bytes-like object; TypeError where it can't be one."""
    return value if type(value) is bytes else _bytes_like(value, "value")


def _bytes_like(data: Any, what: str) -> Any:
    try:
        view = memoryview(data)
    except (TypeError, ValueError):  # ValueError: an array of a type that has no buffer, such as datetime64
        raise TypeError(
            f"expected a bytes-like {what}, found {type(data).__name__}; encode it first, as in text.encode()"
        ) from None
    return view.tobytes()  # a copy: nobody may change it while it is being written


def key_list(keys: Any) -> list[Any]:
    """A sequence of keys, or a one-dimensional numpy array of S, V, int64 or uint64, as a list of keys.

    S keys lose trailing NULs as numpy has it, V keys are taken at full width, integers are 8 bytes little-endian.
    """
    if not isinstance(keys, np.ndarray):
        listed: list[Any] = list(keys)
        if set(map(type, listed)) == {bytes} and max(map(len, listed)) <= MAX_KEY:  # the usual case, at no call a key
            return listed
        return [check_key(key) for key in listed]
    keys = _checked(keys)
    if keys.dtype.kind == "S":
        return [check_key(key) for key in keys.tolist()]
    data, size = keys.tobytes(), keys.dtype.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)] if size else [b""] * len(keys)


def packed_keys(keys: Any) -> tuple[bytes, npt.NDArray[np.int64]]:
    """The same as bytes and n + 1 offsets: key i is ``data[offsets[i]:offsets[i + 1]]``.  Both are copies."""
    if isinstance(keys, np.ndarray):
        keys = _checked(keys)
        size = keys.dtype.itemsize
        offsets = np.arange(len(keys) + 1, dtype=np.int64) * size
        if keys.dtype.kind != "S" or not size:
            return keys.tobytes(), offsets
        sizes = np.char.str_len(keys)
        if (sizes > MAX_KEY).any():
            check_key(bytes(sizes.max()))
        np.cumsum(sizes, out=offsets[1:])
        rows = keys.view(np.uint8).reshape(len(keys), size)
        return rows[np.arange(size) < sizes[:, None]].tobytes(), offsets
    return packed_list([check_key(key) for key in keys])


def packed_list(items: list[Any]) -> tuple[bytes, npt.NDArray[np.int64]]:
    """A list of bytes as bytes and n + 1 offsets."""
    offsets = np.zeros(len(items) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, items), np.int64, len(items)), out=offsets[1:])
    return b"".join(items), offsets


def _checked(keys: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of keys, contiguous and little-endian; TypeError or ValueError where it can't be one."""
    if keys.ndim != 1:
        raise ValueError(f"expected keys of one dimension, found shape {keys.shape}; use keys.ravel()")
    kind, size = keys.dtype.kind, keys.dtype.itemsize
    if kind in "iu" and size == 8:
        keys = keys.astype(keys.dtype.newbyteorder("<"), copy=False)
    elif kind not in "SV" or keys.dtype.names:
        raise TypeError(f"expected keys of dtype S, V, int64 or uint64, found {keys.dtype}; convert them with astype()")
    if kind == "V" and size > MAX_KEY:
        raise ValueError(f"a key has at most {MAX_KEY} bytes, these have {size}")
    return np.ascontiguousarray(keys)


def value_list(values: Any) -> list[Any]:
    """A sequence of values, or an array whose rows are values, as a list of bytes-like objects."""
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OUT" and values.ndim:
        if values.dtype.kind == "S" and values.ndim == 1:
            return list(values.tolist())
        rows = np.ascontiguousarray(values)
        size = rows.nbytes // max(1, len(rows))
        data = rows.tobytes()
        return [data[at * size : (at + 1) * size] for at in range(len(rows))]
    listed: list[Any] = list(values)
    return listed if set(map(type, listed)) == {bytes} else [check_value(value) for value in listed]


def name_bytes(name: str) -> bytes:
    """A keyspace's, table's or array's name as stored."""
    if not isinstance(name, str):
        raise TypeError(f"expected a name as str, found {type(name).__name__}")
    data = name.encode()
    if not 0 < len(data) <= MAX_KEY:
        raise ValueError(f"a name has 1 to {MAX_KEY} bytes in UTF-8, this one has {len(data)}")
    return data


def pairs_of(keys: Sequence[Any], values: Sequence[Any]) -> None:
    if len(keys) != len(values):
        raise ValueError(f"expected as many values as keys, found {len(keys)} keys and {len(values)} values")
