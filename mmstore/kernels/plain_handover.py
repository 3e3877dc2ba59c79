"""What ``handover`` does where it isn't compiled: ctypes callbacks, which take the GIL and run Python.

Limits come with that.  A struct or capsule that is freed while an exception is being raised, as it happens when a
consumer fails, turns that exception into a SystemError: the callback has to return with some exception set, or the
interpreter crashes, and none but that can be set where it returns to.  The one that is lost is shown by
``sys.unraisablehook``.  A KeyboardInterrupt inside a stream is the consumer's error and nothing more.  No thread may be
inside a consumer when the interpreter ends, nor release anything after that.

The functions are made once and never freed, and they look nothing up in this module, whose names may be cleared at
the end before the last struct is released.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from typing import Any

from mmstore.kernels import arrow_abi as abi

__all__ = ["mms_callback", "mms_capsule", "mms_forked", "mms_leave", "mms_move"]

_HEAD = 24  # bytes before the root struct
_LOST = (
    b"of mmstore: arrow data was freed while an exception was raised; it is lost, but was shown by sys.unraisablehook"
)

_pointer = ctypes.c_void_p
_Release = ctypes.CFUNCTYPE(None, _pointer)
_Ask = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer)
_Text = ctypes.CFUNCTYPE(_pointer, _pointer)
_python = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, _pointer, ctypes.c_char_p, _pointer)(("PyCapsule_New", _python))


def _callbacks() -> tuple[dict[int, list[Any]], list[Any], list[Any]]:
    """(owners, callbacks as handover numbers them, destructors of capsules by kind).

    owners: address of a block -> its owner, followed by a None for every struct that is live but the last; taking
    the last item off a list is atomic, so exactly one thread gets the owner.
    """
    owners: dict[int, list[Any]] = {}
    cast, word, size_of, zero = ctypes.cast, ctypes.c_void_p, ctypes.sizeof, ctypes.memset
    types = (abi.Schema, abi.Array, abi.Stream)
    in_flight = ctypes.PYFUNCTYPE(ctypes.c_int)(("Py_IsInitialized", _python))  # ctypes looks for errors after it
    name_of = ctypes.PYFUNCTYPE(_pointer, _pointer)(("PyCapsule_GetName", _python))
    pointer_of = ctypes.PYFUNCTYPE(_pointer, _pointer, _pointer)(("PyCapsule_GetPointer", _python))
    set_none = cast(_python.PyErr_SetNone, word).value
    new, lost = _new, _LOST
    call = ctypes.CFUNCTYPE(None)
    interrupted, failed = errno.EINTR, errno.EIO

    def show(error: BaseException) -> None:
        def was_raised() -> None:
            raise error

        call(was_raised)()  # ctypes gives it to sys.unraisablehook

    def put_down(at: int) -> None:
        owner = owners[at].pop()
        if owner is not None:
            del owners[at]  # before the memory goes with the owner, and its address to another block

    def release(kind: int, address: int) -> None:
        it: Any = types[kind].from_address(address)
        if kind != 2:
            pointers: list[Any] = [word.from_address(it.children + 8 * i).value for i in range(it.n_children)]
            if it.dictionary:
                pointers.append(it.dictionary)
            for pointer in pointers:
                if types[kind].from_address(pointer).release:  # else moved
                    release(kind, pointer)
        it.release = None
        put_down(it.private_data)

    def destroy(kind: int, capsule: int) -> None:
        address = pointer_of(capsule, name_of(capsule))
        if types[kind].from_address(address).release:
            release(kind, address)
        put_down(address - 24)

    def guarded(work: Callable[[int, int], None], kind: int) -> Any:
        def callback(address: int) -> Any:
            raised = None
            try:
                in_flight()
            except BaseException as error:
                raised = error
            work(kind, address)
            if raised is not None:
                show(raised)
                return new(1, lost, set_none)  # dropped by ctypes, and thereby calls PyErr_SetNone: see above
            return None

        return _Release(callback)

    def asked(method: str, kind: int) -> Any:
        def callback(stream: int, out: int) -> int:
            zero(out, 0, size_of(types[kind]))
            owner = owners[types[2].from_address(stream).private_data][0]
            try:
                code: int = getattr(owner, method)(out)
            except KeyboardInterrupt:
                code = interrupted
            except BaseException as error:
                show(error)
                code = failed
            if code and types[kind].from_address(out).release:
                release(kind, out)
            return code

        return _Ask(callback)

    def last_error(stream: int) -> int | None:
        text = owners[types[2].from_address(stream).private_data][0].error
        return None if text is None else cast(text, word).value

    calls = [guarded(release, kind) for kind in range(3)]
    calls += [asked("put_schema", 0), asked("put_next", 1), _Text(last_error)]
    return owners, calls, [guarded(destroy, kind) for kind in range(3)]


_owners, _calls, _destructors = _callbacks()
for _kept in (*_calls, *_destructors, *abi.NAMES):
    _python.Py_IncRef(ctypes.py_object(_kept))  # for ever: others have their addresses
_addresses = [ctypes.cast(call, _pointer).value or 0 for call in _calls]
_gone = [ctypes.cast(destructor, _pointer).value for destructor in _destructors]


def mms_callback(which: int) -> int:
    """The address of a callback."""
    return _addresses[which]


def _hold(at: int, owner: object, live: int) -> None:
    _owners[at] = [owner, *[None] * (live - 1)]


def mms_capsule(kind: int, at: int, owner: object, live: int) -> Any:
    """The root struct of a block in a capsule."""
    _hold(at, owner, live + 1)
    return _new(at + _HEAD, abi.NAMES[kind], _gone[kind])


def mms_move(kind: int, at: int, owner: object, live: int, out: int) -> None:
    """The root struct of a block, moved to `out`."""
    _hold(at, owner, live)
    ctypes.memmove(out, at + _HEAD, ctypes.sizeof((abi.Schema, abi.Array, abi.Stream)[kind]))


def mms_leave() -> None:
    """Nothing to do: what is released late is dropped late."""


def mms_forked() -> None:
    """Nothing is counted here."""
