"""Structs of the Arrow C data interface, as other libraries hand them over, read as numpy arrays without a copy.

A struct is moved out of its capsule first: it is ours from then on, its release pointer in the capsule is NULL, and
nobody can import it again.  The arrays over a batch keep it; when the last of them has died, the producer's release
is called, without the GIL.

The structs say where the buffers are, but not how long: that follows from the format, the length, the offset and the
last offset of an array, as `mmstore.exchange.cdata_layout` has it.  Numbers that contradict each other are
refused.  An address can't be tested, though: a producer that gives wrong ones crashes us, as it would crash
anyone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from mmstore.exchange.cdata_layout import (
    MAX_DEPTH,
    Buffer,
    Data,
    Field,
    check_children,
    check_field,
    check_shape,
    layout_of,
    size,
)
from mmstore.exchange.cdata_out import export_schema
from mmstore.kernels import arrow_abi as abi

__all__ = ["import_array", "import_schema", "import_stream"]

_SCHEMA_NAME, _ARRAY_NAME, _STREAM_NAME = abi.NAMES
_MOST_FIELDS: Final = 1 << 20
_END: Final = 1 << 63  # of the addresses that a program can have

_pointer = ctypes.c_void_p
_is_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer_of = ctypes.PYFUNCTYPE(_pointer, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
_Release = ctypes.CFUNCTYPE(None, _pointer)  # these let go of the GIL
_Ask = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer)
_Text = ctypes.CFUNCTYPE(ctypes.c_char_p, _pointer)


def import_schema(source: Any) -> Field:
    """The field that `source` shows: an object with ``__arrow_c_schema__``, or a capsule.

    Raises `TypeError` where it shows none, `ValueError` where it makes no sense or was taken before.
    """
    capsule = source if _is_capsule(source, _SCHEMA_NAME) else _ask(source, "__arrow_c_schema__")
    return _take_schema(capsule)


def import_array(source: Any) -> tuple[Field, Data]:
    """The batch that `source` shows: an object with ``__arrow_c_array__``, or a schema and an array capsule.

    The arrays are read-only and lie over the producer's memory, which is released when the last of them has died.

    Raises `TypeError` where it shows none, `ValueError` where it makes no sense or was taken before.
    """
    schema, capsule = source if isinstance(source, tuple) else _ask(source, "__arrow_c_array__")
    field = _take_schema(schema)
    array = _Held(abi.Array(), capsule, _ARRAY_NAME)
    return field, _data(field, array.struct, array)


def import_stream(source: Any, requested: Field | None = None) -> tuple[Field, Iterator[Data]]:
    """The batches that `source` shows: an object with ``__arrow_c_stream__``, or a capsule.

    requested: what the batches should look like; the producer may give others, so look at the field.  The arrays
    of a batch are as those of `import_array` and outlive the stream.

    Raises `TypeError` where it shows none, `ValueError` where it makes no sense or was taken before; here and from
    the iterator the producer's own errors: `ValueError`, `MemoryError`, else `OSError`.
    """
    if _is_capsule(source, _STREAM_NAME):
        capsule = source
    elif requested is None:
        capsule = _ask(source, "__arrow_c_stream__")
    else:
        capsule = _ask(source, "__arrow_c_stream__", export_schema(requested))
    stream = _Held(abi.Stream(), capsule, _STREAM_NAME)
    schema = _Held(abi.Schema())
    _call(stream, stream.struct.get_schema, schema.struct)
    if not schema.struct.release:
        raise ValueError("expected a stream with a schema, found a released one")
    field = _field(schema)
    return field, _batches(stream, field)


def _ask(source: Any, method: str, *arguments: Any) -> Any:
    function = getattr(source, method, None)
    if function is None:
        raise TypeError(f"expected an object with {method}, found {type(source).__name__}")
    return function(*arguments)


# --- whose struct it is ------------------------------------------------------------------------------

_lock = threading.Lock()  # while a struct is being moved


def _forked() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it when the process forked


os.register_at_fork(after_in_child=_forked)


class _Held:
    """A struct of ours, moved out of a capsule if one is given, released with this object."""

    __slots__ = ("__weakref__", "_address_of", "_release", "struct")

    def __init__(self, struct: Any, capsule: Any = None, name: bytes = b"") -> None:
        self.struct = struct
        self._address_of, self._release = ctypes.addressof, _Release  # the module may be cleared before
        if capsule is None:
            return
        if not _is_capsule(capsule, name):
            raise TypeError(f"expected a capsule {name.decode()!r}, found {capsule!r}")
        given = type(struct).from_address(_pointer_of(capsule, name))
        with _lock:
            release = given.release
            if not release:
                raise ValueError(f"the capsule {name.decode()!r} was imported before; ask its maker for another one")
            given.release = None  # first, so that an interrupt may lose the struct but nobody releases it twice
            ctypes.memmove(ctypes.addressof(struct), ctypes.addressof(given), ctypes.sizeof(struct))
            struct.release = release

    def __del__(self) -> None:
        if self.struct.release:
            self._release(self.struct.release)(self._address_of(self.struct))


# --- schemas -----------------------------------------------------------------------------------------


def _take_schema(capsule: Any) -> Field:
    return _field(_Held(abi.Schema(), capsule, _SCHEMA_NAME))


def _field(schema: _Held) -> Field:
    """What the struct says, and everything below it."""
    field = _read_field(schema.struct, 0, [_MOST_FIELDS])
    check_field(field)
    return field


def _read_field(struct: abi.Schema, depth: int, left: list[int]) -> Field:
    name = _text(struct.name, "name")
    if not struct.format:
        raise ValueError(f"field {name!r}: expected a format, found NULL")
    n = struct.n_children
    if depth >= MAX_DEPTH:
        raise ValueError(f"field {name!r}: expected at most {MAX_DEPTH} fields inside each other")
    left[0] -= 1
    if not 0 <= n <= left[0]:
        raise ValueError(f"field {name!r}: expected a number of children, found {n}")
    children = tuple(_read_field(child, depth + 1, left) for child in _below(struct, abi.Schema, name))
    dictionary = abi.Schema.from_address(struct.dictionary) if struct.dictionary else None
    format = _text(struct.format, "format")
    return Field(
        format=format,
        name=name,
        nullable=bool(struct.flags & abi.NULLABLE),
        children=children,
        dictionary=None if dictionary is None else _read_field(dictionary, depth + 1, left),
        ordered=bool(struct.flags & (abi.KEYS_SORTED if format == "+m" else abi.ORDERED)),
        metadata=_metadata(struct.metadata, name),
    )


def _below(struct: Any, kind: Any, name: str) -> Iterator[Any]:
    """The structs that are the children of a struct."""
    for i in range(struct.n_children):
        pointer = _pointer.from_address(struct.children + 8 * i).value if struct.children else None
        if not pointer:
            raise ValueError(f"field {name!r}: expected {struct.n_children} children, found NULL")
        child = kind.from_address(pointer)
        if not child.release:
            raise ValueError(f"field {name!r}: its child {i} was released")
        yield child


def _text(address: int | None, what: str) -> str:
    if not address:
        return ""
    text = ctypes.string_at(address)
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected a {what} in UTF-8, found {text[:80]!r}") from error


def _metadata(address: int | None, name: str) -> dict[bytes, bytes]:
    """Keys and values: an i32 says how many, and before each of both an i32 says how long it is."""
    if not address:
        return {}
    at = address

    def number() -> int:
        nonlocal at
        found = int.from_bytes(ctypes.string_at(at, 4), sys.byteorder, signed=True)
        if found < 0:
            raise ValueError(f"field {name!r}: expected metadata, found a length of {found}")
        at += 4
        return found

    def part() -> bytes:
        nonlocal at
        n = number()
        at += n
        return ctypes.string_at(at - n, n)

    return {part(): part() for _ in range(number())}


# --- arrays ------------------------------------------------------------------------------------------


class _Memory:
    """Memory of a producer's, for numpy to look at; numpy keeps this, and this keeps the struct."""

    __slots__ = ("__array_interface__", "holder")

    def __init__(self, address: int, n: int, dtype: np.dtype[Any], holder: _Held) -> None:
        self.holder = holder
        self.__array_interface__ = {"version": 3, "data": (address, True), "shape": (n,), "typestr": dtype.str}


def _data(field: Field, struct: abi.Array, holder: _Held) -> Data:
    """The arrays that the struct shows, and everything below it."""
    layout, length, null_count = layout_of(field.format), struct.length, struct.null_count
    n, fixed = struct.n_buffers, len(layout.buffers)
    if not (fixed < n <= _MOST_FIELDS if layout.views else n == fixed):
        expected = f"more than {fixed}" if layout.views else fixed
        raise ValueError(f"field {field.name!r}: expected {expected} buffers for {field.format!r}, found {n}")
    if n and not struct.buffers:
        raise ValueError(f"field {field.name!r}: expected {n} buffers, found NULL")
    addresses = [_pointer.from_address(struct.buffers + 8 * i).value or 0 for i in range(n)]
    check_shape(field, length, struct.offset, null_count, n > 0 and addresses[0] != 0, struct.n_children)
    if bool(struct.dictionary) != (field.dictionary is not None):
        raise ValueError(f"field {field.name!r}: {'a' if struct.dictionary else 'no'} dictionary was not expected")
    offset = struct.offset if length else 0
    buffers: list[Buffer | None] = []
    before: Buffer | None = None
    for kind, address in zip(layout.buffers, addresses, strict=False):
        if kind.role == "validity" and not address:
            buffers.append(None)
            null_count = 0
            continue
        if not length and kind.role == "offsets":  # a producer may leave them out
            buffers.append(_read_only(np.zeros(1, kind.dtype)))
            continue
        need = size(field, kind, length, offset, before)
        buffers.append(_array(field, kind.dtype, address, need, holder))
        before = buffers[-1] if kind.role == "offsets" else None
    if layout.views:
        buffers += _views(field, addresses[fixed:], holder)
    below = zip(field.children, _below(struct, abi.Array, field.name), strict=True)
    children = tuple(_data(child, found, holder) for child, found in below)
    dictionary = None
    if field.dictionary is not None:
        values = abi.Array.from_address(struct.dictionary)
        if not values.release:
            raise ValueError(f"field {field.name!r}: its dictionary was released")
        dictionary = _data(field.dictionary, values, holder)
    data = Data(length, null_count, tuple(buffers), children, dictionary, offset)
    if children:
        check_children(field, data, before)
    return data


def _array(field: Field, dtype: np.dtype[Any], address: int, need: int, holder: _Held) -> Buffer:
    """A read-only array of `need` bytes at the address."""
    if not need:
        return _read_only(np.empty(0, dtype))
    if not address:
        raise ValueError(f"field {field.name!r} ({field.format!r}): expected a buffer of {need} bytes, found NULL")
    if need > _END - address:
        raise ValueError(f"field {field.name!r} ({field.format!r}): a buffer can't have {need} bytes")
    return np.asarray(_Memory(address, need // dtype.itemsize, dtype, holder))


def _read_only(array: Buffer) -> Buffer:
    array.flags.writeable = False
    return array


def _views(field: Field, addresses: list[int], holder: _Held) -> list[Buffer | None]:
    """The data buffers that views point into, and behind them their sizes."""
    sizes = _array(field, np.dtype("i8"), addresses[-1], 8 * (len(addresses) - 1), holder)
    found: list[Buffer | None] = []
    for address, need in zip(addresses, sizes.tolist(), strict=False):
        if need < 0:
            raise ValueError(f"field {field.name!r}: expected the size of a buffer, found {need}")
        found.append(_array(field, np.dtype("u1"), address, need, holder))
    return [*found, sizes]


# --- streams -----------------------------------------------------------------------------------------


def _batches(stream: _Held, field: Field) -> Iterator[Data]:
    """Every batch of the stream, which is released at its end or with this iterator."""
    found: list[Data] = []  # a batch isn't kept here once it was taken
    while _fetch(stream, field, found):
        yield found.pop()


def _fetch(stream: _Held, field: Field, found: list[Data]) -> bool:
    """Put the next batch into `found`; False at the end."""
    array = _Held(abi.Array())
    _call(stream, stream.struct.get_next, array.struct)
    if not array.struct.release:
        return False
    found.append(_data(field, array.struct, array))
    return True


def _call(stream: _Held, function: int | None, out: Any) -> None:
    """Have the stream fill in the struct `out`.  Raises the producer's error."""
    if not function:
        raise ValueError("expected a stream with callbacks, found NULL")
    address = ctypes.addressof(stream.struct)
    code = _Ask(function)(address, ctypes.addressof(out))
    if code == 0:
        return
    out.release = None  # says nothing after an error
    last_error = stream.struct.get_last_error
    text = _Text(last_error)(address) if last_error else None
    name = errno.errorcode.get(code, f"error {code}")
    message = f"the producer of the arrow stream failed with {name}: {(text or b'no message').decode(errors='replace')}"
    if code == errno.ENOMEM:
        raise MemoryError(message)
    if code == errno.EINVAL:
        raise ValueError(message)
    raise OSError(code, message)
