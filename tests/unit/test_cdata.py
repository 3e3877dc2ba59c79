"""Arrow's C interface: what others read is our memory, lives until they let go of it, and lies never."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import gc
import importlib.util
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import nanoarrow
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from mmstore.exchange import cdata_layout, cdata_out
from mmstore.exchange.cdata import (
    Data,
    Field,
    export_array,
    export_schema,
    export_stream,
    import_array,
    import_schema,
    import_stream,
)
from mmstore.kernels import arrow_abi as abi
from mmstore.kernels import handover


def _plain() -> ModuleType:
    """The source, uncompiled, whatever the package has."""
    source = Path(handover.__file__).parent / "handover.py"
    spec = importlib.util.spec_from_file_location("plain_source_of_handover", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPILED = not handover.__file__.endswith(".py")
MODULES = {"compiled": handover, "uncompiled": _plain()} if COMPILED else {"uncompiled": handover}


@pytest.fixture(params=list(MODULES), autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The callbacks that are exported; whatever a test exports it has to get rid of."""
    module = MODULES[request.param]
    monkeypatch.setattr(cdata_out, "handover", module)
    cdata_out._schema_words.cache_clear()
    yield module
    cdata_out._schema_words.cache_clear()
    KEPT.clear()


class Shown:
    """An object with the methods that consumers look for."""

    def __init__(self, field: Field, *batches: Data) -> None:
        self.field = field
        self.batches = batches
        self.asked: Any = None

    def __arrow_c_schema__(self) -> Any:
        return export_schema(self.field)

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return export_array(self.field, self.batches[0])


class Stream(Shown):
    """As most have it: some consumers prefer the array where there are both."""

    __arrow_c_array__ = property()  # type: ignore[assignment]

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        self.asked = requested_schema
        return export_stream(self.field, iter(self.batches))


class Capsule:
    """Brings a capsule that was made before."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.made


class Mark:
    """Something to be kept alive by an array, to see when it dies."""


def marked(values: Any) -> tuple[np.ndarray[Any, Any], weakref.ref[Mark]]:
    """An array, and what dies with its memory."""
    array = np.array(values)
    mark = Mark()

    class Base:
        __array_interface__ = array.__array_interface__
        held = (array, mark)

    base = Base()
    base.held = Base.held
    Base.held = ()  # type: ignore[assignment]
    return np.asarray(base), weakref.ref(mark)


def comes(condition: Callable[[], bool]) -> bool:
    """What another thread, or without the GIL, has released waits for the main thread to come by."""
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.001)
    return False


def gone(mark: weakref.ref[Mark]) -> bool:
    return comes(lambda: mark() is None)


def struct_of(capsule: Any, kind: Any, name: bytes) -> Any:
    """The struct in a capsule."""
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    return kind.from_address(get(capsule, name))


def array_in(capsule: Any) -> Any:
    return struct_of(capsule, abi.Array, b"arrow_array")


def release(struct: Any) -> None:
    """As a consumer does it: the GIL is let go of."""
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(struct.release)(ctypes.addressof(struct))


def child_of(struct: Any, i: int) -> Any:
    return type(struct).from_address(ctypes.c_void_p.from_address(struct.children + 8 * i).value or 0)


def moved(struct: Any) -> Any:
    """A copy that is the struct from here on."""
    copy = type(struct)()
    ctypes.memmove(ctypes.addressof(copy), ctypes.addressof(struct), ctypes.sizeof(struct))
    struct.release = None
    return copy


NUMBERS = Field("+s", nullable=False, children=(Field("l", "x"), Field("g", "y")))


def numbers(x: Any, y: Any = None, offset: int = 0) -> Data:
    y = np.zeros(len(x)) if y is None else y
    n = len(x) - offset
    return Data(n, 0, (None,), (Data(n, 0, (None, x), offset=offset), Data(n, 0, (None, y), offset=offset)))


def test_sizes() -> None:
    """On a machine of 64 bits, as the specification has them."""
    assert [ctypes.sizeof(kind) for kind in (abi.Schema, abi.Array, abi.Stream)] == [72, 80, 40]


# --- round trips -------------------------------------------------------------------------------------

ARRAYS = {
    "null": pa.nulls(3),
    "bool": pa.array([True, None, False] * 5),
    "numbers": pa.array([1, None, 3], pa.int16()),
    "unsigned": pa.array([1, None, 2**64 - 1], pa.uint64()),
    "half": pa.array(np.array([1, 2, 3], "f2")),
    "text": pa.array(["a", None, "", "äöü"]),
    "large text": pa.array(["a", None, "", "äöü"], pa.large_string()),
    "bytes": pa.array([b"a", None, b"\0\0"], pa.large_binary()),
    "views": pa.array(["short", None, "longer than twelve bytes", "and one more of those"] * 3, pa.string_view()),
    "fixed": pa.array([b"abc", None, b"def"], pa.binary(3)),
    "decimal": pa.array([1, None, -3], pa.decimal128(15, 2)),
    "wide decimal": pa.array([100, None, -300], pa.decimal256(40, -2)),
    "narrow decimal": pa.array([1, None, -3], pa.decimal32(5, 2)),
    "date": pa.array([1, None], pa.date32()),
    "timestamp": pa.array([1, None], pa.timestamp("us", "Europe/Berlin")),
    "time": pa.array([1, None], pa.time64("ns")),
    "duration": pa.array([1, None], pa.duration("ms")),
    "interval": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    "list": pa.array([[1, 2], None, [], [3]], pa.list_(pa.field("item", pa.int8(), nullable=False))),
    "large list": pa.array([["a"], None, []], pa.large_list(pa.string())),
    "list view": pa.array([[1, 2], None, []], pa.list_view(pa.int32())),
    "fixed list": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
    "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int32(), keys_sorted=True)),
    "dictionary": pa.array(["a", None, "b", "a"]).dictionary_encode(),
    "ordered": pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), ["lo", "hi"], ordered=True),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["a", "b"])),
    "sparse union": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    "dense union": pa.UnionArray.from_dense(
        pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1, 2]), pa.array(["a"])]
    ),
    "deep": pa.array([[{"a": [["x"], None]}], None], pa.list_(pa.struct([("a", pa.list_(pa.list_(pa.string())))]))),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_round_trip(name: str) -> None:
    for array in (ARRAYS[name], ARRAYS[name][1:], ARRAYS[name][:1], ARRAYS[name][:0], ARRAYS[name][1:1]):
        field, data = import_array(array)
        again = pa.array(Shown(field, data))
        again.validate(full=True)
        assert again.type == array.type
        assert again.equals(array)
        assert pa.DataType._import_from_c_capsule(export_schema(field)) == array.type


def test_fields() -> None:
    field = pa.field("ä", pa.int32(), nullable=False, metadata={b"k": b"v\0", b"": b""})
    found = import_schema(field)
    assert found == Field("i", "ä", False, metadata={b"k": b"v\0", b"": b""})
    assert pa.Field._import_from_c_capsule(export_schema(found)).equals(field, check_metadata=True)
    schema = pa.schema([field, pa.field("b", pa.map_(pa.string(), pa.int8(), keys_sorted=True))], metadata={"a": "b"})
    found = import_schema(schema)
    assert [child.ordered for child in found.children] == [False, True]
    assert pa.schema(Shown(found)).equals(schema, check_metadata=True)
    assert hash(found) == hash(import_schema(schema)) and found == import_schema(schema)


def test_from_polars_duckdb_pandas_nanoarrow() -> None:
    table = pa.table({"a": [1, None, 3], "b": ["x", "a string longer than twelve bytes", None]})
    frame = pl.DataFrame(table)
    for source in (frame, duckdb.sql("select * from frame"), table.to_pandas(), nanoarrow.ArrayStream(table)):
        field, batches = import_stream(source)
        again = pa.table(Stream(field, *batches))
        again.validate(full=True)
        assert again.column_names == ["a", "b"]
        assert again["b"].cast(pa.string()).to_pylist() == table["b"].to_pylist()
        assert [None if a != a else a for a in again["a"].to_pylist()] == [1, None, 3]


def test_to_polars_duckdb_pandas_nanoarrow() -> None:
    shown = Stream(NUMBERS, numbers(np.arange(5)), numbers(np.arange(7), offset=4))
    assert pl.DataFrame(shown)["x"].to_list() == [0, 1, 2, 3, 4, 4, 5, 6]
    assert duckdb.sql("select sum(x), count(*) from shown").fetchall() == [(25, 8)]
    assert nanoarrow.Array(shown).child(0).to_pylist() == [0, 1, 2, 3, 4, 4, 5, 6]
    assert pa.table(shown).to_pandas()["x"].tolist() == [0, 1, 2, 3, 4, 4, 5, 6]


def test_nothing_is_copied() -> None:
    x, bits, offsets, text = np.arange(9), np.array([255, 1], "u1"), np.arange(10), np.full(9, 97, "u1")
    field = Field("+s", children=(Field("l"), Field("U"), Field("b")))
    children = (Data(8, 0, (bits, x)), Data(8, -1, (None, offsets, text), offset=1), Data(8, 0, (None, bits), offset=1))
    out = pa.record_batch(Shown(field, Data(8, 0, (None,), children)))
    found = [buffer.address for column in out.columns for buffer in column.buffers() if buffer is not None]
    assert found == [array.ctypes.data for array in (bits, x, offsets, text, bits)]
    again = import_array(out)[1]
    arrays = [buffer for child in again.children for buffer in child.buffers if buffer is not None]
    assert [array.ctypes.data for array in arrays] == found
    assert [array.dtype.str for array in arrays] == ["|u1", "<i8", "<i8", "|u1", "|u1"]
    assert [len(array) for array in arrays] == [1, 8, 10, 9, 2]
    for array in arrays:
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_any_dtype_may_be_shown() -> None:
    """Only the bytes count; numpy's times have no buffer interface."""
    when = np.array(["2024-05-05", "NaT"], "datetime64[us]")
    assert pa.array(Shown(Field("tsu:"), Data(2, 0, (None, when)))).cast(pa.int64()).to_pylist()[0] == 1714867200000000
    offsets = np.array([0, 1, 3], "i4").view("u1")
    assert pa.array(Shown(Field("u"), Data(2, 0, (None, offsets, np.array([b"abc"], "S3"))))).to_pylist() == ["a", "bc"]
    block = np.arange(6, dtype="f4").reshape(3, 2)
    vectors = Data(3, 0, (None,), (Data(6, 0, (None, block)),))
    assert pa.array(Shown(Field("+w:2", children=(Field("f", "item"),)), vectors)).to_pylist() == block.tolist()


# --- lifetimes ---------------------------------------------------------------------------------------


def test_lives_until_the_consumer_lets_go() -> None:
    x, mark = marked([1, 2, 3])
    batch = pa.record_batch(Shown(NUMBERS, numbers(x)))
    del x
    assert batch.column(0).to_pylist() == [1, 2, 3]
    column = batch.column(0)
    del batch
    assert mark() is not None and column.to_pylist() == [1, 2, 3]
    del column
    assert mark() is None


def test_what_nobody_took_is_released() -> None:
    x, mark = marked([1, 2, 3])
    made = [export_array(NUMBERS, numbers(x)), export_stream(NUMBERS, iter([numbers(x)])), export_schema(NUMBERS)]
    del x
    assert mark() is not None
    del made
    assert mark() is None


def test_a_stream_that_is_left_in_the_middle() -> None:
    x, mark = marked([1, 2, 3])
    ended = []

    def batches(x: Any) -> Iterator[Data]:
        try:
            for _ in range(3):
                yield numbers(x)
        finally:
            ended.append(True)

    reader = pa.RecordBatchReader.from_stream(Capsule(export_stream(NUMBERS, batches(x))))
    first = reader.read_next_batch()
    assert not ended
    del reader
    assert comes(lambda: ended == [True])
    del x
    assert mark() is not None and first.column(0).to_pylist() == [1, 2, 3]
    del first
    assert mark() is None


def test_moved_children_survive() -> None:
    x, mark = marked([1, 2, 3])
    _, capsule = export_array(NUMBERS, numbers(x))
    del x
    root = moved(array_in(capsule))
    child = moved(child_of(root, 0))
    other = child_of(root, 1)
    assert other.release
    release(root)
    assert not root.release
    del capsule, root, other
    assert mark() is not None
    values = ctypes.c_void_p.from_address(child.buffers + 8).value or 0
    assert list((ctypes.c_int64 * 3).from_address(values)) == [1, 2, 3]
    release(child)
    assert not child.release and gone(mark)


def test_moved_schemas_and_dictionaries_survive() -> None:
    field = Field(
        "+s", children=(Field("i", "d", dictionary=Field("u", "values")), Field("l", "x", metadata={b"a": b"b"}))
    )
    capsule = export_schema(field)
    root = moved(struct_of(capsule, abi.Schema, b"arrow_schema"))
    below = child_of(root, 0)
    values = moved(abi.Schema.from_address(below.dictionary))
    del capsule, below
    release(root)
    assert ctypes.string_at(values.format) == b"u" and ctypes.string_at(values.name) == b"values"
    release(values)
    assert not values.release


def test_a_capsule_can_be_taken_once() -> None:
    schema, array = export_array(NUMBERS, numbers(np.arange(3)))
    stream = export_stream(NUMBERS, iter([]))
    import_array((schema, array))
    with pytest.raises(ValueError, match="imported before"):
        import_array((schema, array))
    with pytest.raises(ValueError, match="imported before"):
        import_schema(schema)
    import_stream(stream)
    with pytest.raises(ValueError, match="imported before"):
        import_stream(stream)
    again = export_stream(NUMBERS, iter([]))
    pa.RecordBatchReader.from_stream(Capsule(again))
    with pytest.raises(pa.ArrowInvalid, match="released"):
        pa.RecordBatchReader.from_stream(Capsule(again))
    with pytest.raises(ValueError, match="imported before"):
        import_stream(again)


def test_released_in_another_thread() -> None:
    x, mark = marked([1, 2, 3])
    _, capsule = export_array(NUMBERS, numbers(x))
    del x
    root = moved(array_in(capsule))
    del capsule
    thread = threading.Thread(target=release, args=(root,))
    thread.start()
    thread.join()
    assert not root.release and gone(mark)


def test_released_by_a_thread_that_python_does_not_know(kernel: ModuleType) -> None:
    """Compiled, it doesn't wait for the GIL either: whoever has it may be waiting for that thread."""
    x, mark = marked([1, 2, 3])
    _, capsule = export_array(NUMBERS, numbers(x))
    del x
    root = moved(array_in(capsule))
    del capsule
    thread = ctypes.c_void_p()
    create = ctypes.CDLL(None).pthread_create
    create.argtypes = [ctypes.c_void_p] * 4
    join = (ctypes.PyDLL if COMPILED and kernel is handover else ctypes.CDLL)(None).pthread_join
    join.argtypes = [ctypes.c_void_p] * 2
    assert create(ctypes.addressof(thread), None, root.release, ctypes.addressof(root)) == 0
    assert join(thread, None) == 0
    assert not root.release and gone(mark)


def test_many_threads_at_once() -> None:
    marks = []
    structs = []
    for _ in range(20):
        x, mark = marked([1, 2, 3])
        marks.append(mark)
        _, capsule = export_array(NUMBERS, numbers(x))
        root = moved(array_in(capsule))
        structs += [moved(child_of(root, 0)), moved(child_of(root, 1)), root]
        del x, capsule

    def work(mine: list[Any]) -> None:
        for struct in mine:
            release(struct)

    threads = [threading.Thread(target=work, args=(structs[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(gone(mark) for mark in marks)


def test_released_while_an_exception_is_raised(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies on the interpreter's stack is freed then; the exception isn't lost, or at least shown."""
    shown: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(repr(unraisable.exc_value)))

    def fail() -> Any:
        raise KeyError("mine")

    makers: list[Callable[[np.ndarray[Any, Any]], Any]] = [
        lambda x: export_array(NUMBERS, numbers(x))[1],
        lambda x: export_stream(NUMBERS, iter([numbers(x)])),
        lambda x: pa.record_batch(Shown(NUMBERS, numbers(x))),
        lambda x: pa.RecordBatchReader.from_stream(Stream(NUMBERS, numbers(x))),
    ]
    for make in makers:
        x, mark = marked([1, 2, 3])
        made = [make(x)]
        del x
        with pytest.raises(KeyError if COMPILED and kernel is handover else SystemError):
            (made.pop(), fail())
        assert mark() is None
    assert shown == ([] if COMPILED and kernel is handover else ["KeyError('mine')"] * len(makers))


def test_released_by_the_garbage_collector() -> None:
    x, mark = marked([1, 2, 3])
    cycle: list[Any] = [pa.record_batch(Shown(NUMBERS, numbers(x)))]
    cycle.append(cycle)
    del x, cycle
    assert mark() is not None
    gc.collect()
    assert mark() is None


def test_imported_memory_lives_as_long_as_its_arrays() -> None:
    before = pa.total_allocated_bytes()
    table = pa.table({"x": pa.array(range(100_000)), "s": pa.array(["abc"] * 100_000)})
    field, batches = import_stream(table)
    (data,) = batches
    del table
    assert pa.total_allocated_bytes() - before > 1_000_000
    view = data.children[0].buffers[1]
    assert view is not None
    view = view[5:10]
    del data, batches
    assert view.tolist() == [5, 6, 7, 8, 9]
    assert pa.total_allocated_bytes() - before > 1_000_000
    del view
    assert pa.total_allocated_bytes() == before


def test_a_batch_is_not_kept_by_its_stream() -> None:
    before = pa.total_allocated_bytes()

    def batches() -> Iterator[pa.RecordBatch]:
        for _ in range(3):
            yield pa.record_batch({"x": pa.array(range(10_000))})

    reader = pa.RecordBatchReader.from_batches(pa.schema({"x": pa.int64()}), batches())
    _, found = import_stream(reader)
    for _ in range(2):
        data = next(found)
        assert pa.total_allocated_bytes() - before > 80_000
        del data
        assert pa.total_allocated_bytes() - before < 80_000


# --- streams -----------------------------------------------------------------------------------------


def failing(error: BaseException) -> Iterator[Data]:
    yield numbers(np.arange(2))
    raise error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("what a pity"), ValueError, "EINVAL: ValueError: what a pity"),
        (MemoryError(), MemoryError, "ENOMEM: MemoryError"),
        (RuntimeError("with\0nul"), OSError, "EIO: RuntimeError: with nul"),
        (OSError(errno.ENOSPC, "full"), OSError, "ENOSPC: OSError: .*full"),
        (OSError("no number"), OSError, "EIO: OSError: no number"),
        (UnicodeError("\ud800"), ValueError, "EINVAL: UnicodeError: \\?"),
    ],
)
def test_errors_of_a_stream(error: BaseException, kind: type[BaseException], text: str) -> None:
    _, batches = import_stream(Capsule(export_stream(NUMBERS, failing(error))))
    assert next(batches).length == 2
    with pytest.raises(kind, match=text) as caught:
        next(batches)
    if kind is OSError:
        assert caught.value.errno == errno.__dict__[text.partition(":")[0]]  # type: ignore[attr-defined]
    reader = pa.RecordBatchReader.from_stream(Capsule(export_stream(NUMBERS, failing(error))))
    reader.read_next_batch()
    with pytest.raises((pa.ArrowException, OSError, MemoryError), match=text.partition(" ")[2]):
        reader.read_next_batch()
    with pytest.raises((pa.ArrowException, OSError, MemoryError)):  # and not its end
        reader.read_next_batch()


def test_a_batch_that_does_not_fit_is_an_error() -> None:
    short = Data(5, 0, (None,), numbers(np.arange(2)).children)
    reader = pa.RecordBatchReader.from_stream(Stream(NUMBERS, short))
    with pytest.raises(pa.ArrowInvalid, match="expected children of 5 items, found 2"):
        reader.read_next_batch()
    with pytest.raises(ValueError, match="expected children of 5 items, found 2"):
        list(import_stream(Stream(NUMBERS, short))[1])


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Also where the tests are run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_in_a_stream(kernel: ModuleType) -> None:
    def batches() -> Iterator[Data]:
        raise KeyboardInterrupt
        yield

    capsule = export_stream(NUMBERS, batches())
    stream = moved(struct_of(capsule, abi.Stream, b"arrow_array_stream"))
    out = abi.Array()
    ask = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(stream.get_next)
    interrupted = 0
    codes = []
    for _ in range(2):
        try:
            codes.append(ask(ctypes.addressof(stream), ctypes.addressof(out)))
            time.sleep(0)
        except KeyboardInterrupt:
            interrupted += 1
    assert not out.release
    release(stream)
    if COMPILED and kernel is handover:
        assert interrupted == 1
    assert codes[-1] == errno.EINTR


def test_after_the_end_comes_the_end() -> None:
    capsule = export_stream(NUMBERS, iter([]))
    stream = moved(struct_of(capsule, abi.Stream, b"arrow_array_stream"))
    ask = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    for _ in range(3):
        out = abi.Array(release=1)
        assert ask(stream.get_next)(ctypes.addressof(stream), ctypes.addressof(out)) == 0
        assert not out.release
    for _ in range(2):
        schema = abi.Schema()
        assert ask(stream.get_schema)(ctypes.addressof(stream), ctypes.addressof(schema)) == 0
        assert ctypes.string_at(schema.format) == b"+s"
        release(schema)
    text = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(stream.get_last_error)
    assert text(ctypes.addressof(stream)) is None
    release(stream)
    assert not stream.release


def test_requested_schema() -> None:
    shown = Stream(NUMBERS, numbers(np.arange(3)))
    field, _ = import_stream(shown, Field("+s", children=(Field("i", "x"),)))
    assert field == NUMBERS
    assert import_schema(shown.asked).children == (Field("i", "x"),)
    table = pa.table({"x": pa.array([1], pa.int32())})
    field, batches = import_stream(table, import_schema(pa.schema({"x": pa.int64()})))
    assert field.children[0].format == "l" and next(batches).children[0].buffers[1].dtype == np.int64  # type: ignore[union-attr]


def test_two_threads_read_one_stream_each() -> None:
    found: list[int] = []

    def read() -> None:
        shown = Stream(NUMBERS, *(numbers(np.arange(10)) for _ in range(50)))
        found.append(sum(batch.num_rows for batch in pa.RecordBatchReader.from_stream(shown)))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [500] * 3


# --- what must not be believed -----------------------------------------------------------------------


def test_wrong_objects() -> None:
    for take in (import_schema, import_array, import_stream):
        with pytest.raises(TypeError, match="__arrow_c_"):
            take(3)
    schema, array = export_array(NUMBERS, numbers(np.arange(3)))
    with pytest.raises(TypeError, match="expected a capsule 'arrow_array'"):
        import_array((schema, export_schema(NUMBERS)))
    with pytest.raises(TypeError, match="expected a capsule 'arrow_schema'"):
        import_array((array, array))
    with pytest.raises(TypeError, match="expected a capsule 'arrow_array_stream'"):
        import_stream(Capsule(array))


BAD_FORMATS = [
    "",
    "x",
    "w:",
    "w:-1",
    "w:99999999999",
    "+w:x",
    "d:1",
    "d:1,2,7",
    "ts",
    "tsx:",
    "+u:0",
    "+us:128",
    "+ud:0,0",
]


@pytest.mark.parametrize("format", BAD_FORMATS)
def test_unknown_formats(format: str) -> None:
    with pytest.raises(ValueError, match="expected .* found"):
        export_schema(Field(format))
    with pytest.raises(ValueError, match="expected .* found"):
        import_schema(forged_schema(Field("l"), format=text_at(format.encode())).capsule)


new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
RELEASED: list[int] = []
KEPT: list[Any] = []


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def forget(address: int) -> None:
    """What a forged struct has for a release: the honest one that it was copied from has its own."""
    RELEASED.append(address)


class Forged:
    """A copy of a struct, in a capsule of its own, that may claim what it likes."""

    def __init__(self, honest: Any, kind: Any, name: bytes) -> None:
        self.honest = honest
        self.struct = kind()
        ctypes.memmove(
            ctypes.addressof(self.struct), ctypes.addressof(struct_of(honest, kind, name)), ctypes.sizeof(kind)
        )
        self.struct.release = ctypes.cast(forget, ctypes.c_void_p)
        self.capsule = new_capsule(ctypes.addressof(self.struct), name, None)
        KEPT.append(self)


def refused(message: str, take: Callable[[Any], Any], given: Any) -> None:
    """It is an error that says why, and the struct is released."""
    before, found = len(RELEASED), ""
    try:
        take(given)
    except ValueError as error:
        found = str(error)
    assert re.search(message, found)
    assert len(RELEASED) == before + 1


def forged_schema(field: Field, **members: Any) -> Forged:
    forged = Forged(export_schema(field), abi.Schema, b"arrow_schema")
    for name, value in members.items():
        setattr(forged.struct, name, value)
    return forged


def text_at(text: bytes) -> Any:
    return ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value


def test_fields_that_contradict_themselves() -> None:
    deep = Field("l")
    for _ in range(cdata_layout.MAX_DEPTH - 1):
        deep = Field("+l", children=(deep,))
    import_schema(export_schema(deep))
    for field, text in [
        (Field("+l"), "expected 1 children"),
        (Field("l", children=(Field("l"),)), "expected 0 children"),
        (Field("+m", children=(Field("l"),)), "a map's child"),
        (Field("+r", children=(Field("u"), Field("l"))), "run ends"),
        (Field("u", dictionary=Field("u")), "indices of a dictionary"),
        (Field("l", "with\0nul"), "without NUL"),
        (Field("+l", children=(deep,)), "at most 64 fields"),
    ]:
        with pytest.raises(ValueError, match=text):
            export_schema(field)
        with pytest.raises(ValueError, match=text):
            export_stream(field, iter([]))


NOT_UTF8, OTHER, LENGTHS = b"\xff", b"l", np.array([1, -5], "i4")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"format": None}, "expected a format, found NULL"),
        ({"format": text_at(NOT_UTF8)}, "expected a format in UTF-8"),
        ({"format": text_at(OTHER)}, "expected 0 children"),
        ({"n_children": -1}, "a number of children, found -1"),
        ({"n_children": 1 << 62}, "a number of children"),
        ({"children": None}, "expected 2 children, found NULL"),
        ({"metadata": LENGTHS.ctypes.data}, "expected metadata, found a length of -5"),
    ],
)
def test_schemas_that_lie(members: dict[str, Any], message: str) -> None:
    two = Field("+s", children=(Field("l"), Field("l")))
    refused(message, import_schema, forged_schema(two, **members).capsule)


def test_schemas_below_others() -> None:
    forged = forged_schema(Field("+l", children=(Field("l"),)))
    child_of(forged.struct, 0).release = None
    refused("its child 0 was released", import_schema, forged.capsule)
    forged, below = (forged_schema(Field("+l", children=(Field("l"),))) for _ in range(2))
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(below.struct))
    forged.struct.children = below.struct.children = ctypes.addressof(pointers)  # which is its own child
    refused("at most 64 fields inside each other", import_schema, forged.capsule)
    assert import_schema(forged_schema(Field("l", "x"), name=None).capsule).name == ""


TEXT = Field("u", "t")
TEXTS = Data(2, 0, (np.zeros(1, "u1"), np.array([0, 1, 2], "i4"), np.zeros(2, "u1")))


def forged_array(field: Field, data: Data, **members: Any) -> tuple[Any, Forged]:
    schema, honest = export_array(field, data)
    forged = Forged(honest, abi.Array, b"arrow_array")
    for name, value in members.items():
        setattr(forged.struct, name, value)
    return schema, forged


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"length": -1}, "expected a length and an offset"),
        ({"offset": -1}, "expected a length and an offset"),
        ({"length": (1 << 63) - 1, "offset": 5}, "expected a length and an offset"),
        ({"length": 1 << 62}, "a buffer can't have"),
        ({"null_count": 3}, "can't have 3 nulls"),
        ({"null_count": -2}, "can't have -2 nulls"),
        ({"n_buffers": 2}, "expected 3 buffers for 'u', found 2"),
        ({"n_buffers": -1}, "expected 3 buffers for 'u', found -1"),
        ({"n_buffers": 1 << 40}, "expected 3 buffers"),
        ({"buffers": None}, "expected 3 buffers, found NULL"),
        ({"n_children": 1}, "expected 0 children, found 1"),
        ({"n_children": -1}, "expected 0 children, found -1"),
        ({"dictionary": 8}, "dictionary was not expected"),
    ],
)
def test_arrays_that_lie(members: dict[str, Any], message: str) -> None:
    schema, forged = forged_array(TEXT, TEXTS, **members)
    refused(message, import_array, (schema, forged.capsule))


def test_buffers_that_lie() -> None:
    falling = np.array([0, 1, -1], "i4")
    for addresses, nulls, message in [
        ([0, 0, 0], 1, "expected a validity buffer"),
        ([0, 0, 0], 0, "expected a buffer of 12 bytes, found NULL"),
        ([0, falling.ctypes.data, 0], -1, "expected offsets that rise"),
        ([0, falling[1:].ctypes.data, 0], -1, "expected offsets that rise"),
        ([0, TEXTS.buffers[1].ctypes.data, 0], -1, "expected a buffer of 2 bytes, found NULL"),  # type: ignore[union-attr]
    ]:
        pointers = (ctypes.c_void_p * 3)(*addresses)
        length = 1 if addresses[1] == falling[1:].ctypes.data else 2
        schema, forged = forged_array(TEXT, TEXTS, buffers=ctypes.addressof(pointers), null_count=nulls, length=length)
        refused(message, import_array, (schema, forged.capsule))
    views = Data(1, 0, (None, np.zeros(16, "u1"), np.zeros(3, "u1"), np.array([3])))
    sizes = np.array([-3])
    pointers = (ctypes.c_void_p * 4)(0, views.buffers[1].ctypes.data, 8, sizes.ctypes.data)  # type: ignore[union-attr]
    schema, forged = forged_array(Field("vu"), views, buffers=ctypes.addressof(pointers))
    refused("the size of a buffer, found -3", import_array, (schema, forged.capsule))


def test_empty_arrays_need_no_buffers() -> None:
    for field in (TEXT, Field("Z"), Field("l"), Field("b"), Field("vu"), Field("+l", children=(TEXT,))):
        n = 2 + (field.format in ("u", "Z")) + 2 * (field.format == "vu") - (field.format == "vu")
        child = (Data(0, 0, (None, None, None)),) if field.children else ()
        schema, forged = forged_array(field, Data(0, 0, (None,) * n, child), offset=7)
        data = import_array((schema, forged.capsule))[1]
        assert data.offset == 0 and data.buffers[0] is None
        assert all(buffer is not None and not buffer.any() for buffer in data.buffers[1:])
        assert [len(buffer) for buffer in data.buffers[1:] if buffer is not None][1:] in ([], [0])


CHILDREN = Field("+s", "s", children=(Field("i", "d", dictionary=Field("u")), Field("+l", "l", children=(Field("c"),))))


def children() -> Data:
    values = Data(1, 0, (None, np.array([0, 1], "i4"), np.zeros(1, "u1")))
    lists = Data(3, 0, (None, np.array([0, 1, 2, 3], "i4")), (Data(3, 0, (None, np.zeros(3, "i1"))),))
    return Data(3, 0, (None,), (Data(3, 0, (None, np.zeros(3, "i4")), dictionary=values), lists))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: setattr(child_of(root, 0), "length", 2), "expected children of 3 items, found 2"),
        (lambda root: setattr(child_of(child_of(root, 1), 0), "length", 2), "expected children of 3 items, found 2"),
        (lambda root: setattr(child_of(root, 0), "dictionary", None), "no dictionary was not expected"),
        (lambda root: setattr(child_of(root, 1), "release", None), "its child 1 was released"),
        (
            lambda root: setattr(abi.Array.from_address(child_of(root, 0).dictionary), "release", None),
            "its dictionary was released",
        ),
        (lambda root: setattr(root, "children", None), "expected 2 children, found NULL"),
    ],
)
def test_children_that_lie(change: Callable[[Any], Any], message: str) -> None:
    schema, forged = forged_array(CHILDREN, children())
    change(forged.struct)
    refused(message, import_array, (schema, forged.capsule))


def with_(data: Data, **members: Any) -> Data:
    return dataclasses.replace(data, **members)


@pytest.mark.parametrize(
    ("field", "data", "message"),
    [
        (TEXT, with_(TEXTS, buffers=TEXTS.buffers[:2]), "expected 3 buffers"),
        (TEXT, with_(TEXTS, length=3), "expected a buffer of 16 bytes, found 12"),
        (TEXT, with_(TEXTS, offset=1), "expected a buffer of 16 bytes, found 12"),
        (TEXT, with_(TEXTS, length=-1), "expected a length"),
        (TEXT, with_(TEXTS, null_count=3), "can't have 3 nulls"),
        (TEXT, with_(TEXTS, buffers=(None, *TEXTS.buffers[1:]), null_count=1), "expected a validity buffer"),
        (TEXT, with_(TEXTS, buffers=(*TEXTS.buffers[:2], None)), "expected a buffer of 2 bytes, found none"),
        (TEXT, with_(TEXTS, buffers=(*TEXTS.buffers[:2], np.zeros(1, "u1"))), "expected a buffer of 2 bytes, found 1"),
        (TEXT, with_(TEXTS, buffers=(None, np.array([2, 2, 1], "i4"), np.zeros(9, "u1"))), "offsets that rise"),
        (TEXT, with_(TEXTS, children=(TEXTS,)), "expected 0 children, found 1"),
        (TEXT, with_(TEXTS, dictionary=TEXTS), "a dictionary was not expected"),
        (Field("i", dictionary=TEXT), Data(1, 0, (None, np.zeros(1, "i4"))), "no dictionary was not expected"),
        (Field("l"), Data(9, 0, (np.zeros(1, "u1"), np.zeros(9))), "expected a buffer of 2 bytes, found 1"),
        (Field("l"), Data(2, 0, (None, np.zeros(4)[::2])), "contiguous buffers"),
        (Field("l"), Data(2, 0, (None, np.zeros(2, ">i8"))), "byte order"),
        (Field("l"), Data(2, 0, (None, np.zeros(2, object))), "buffers of numbers"),
        (Field("w:0"), Data(1 << 62, 5, (None, np.zeros(0, "u1"))), "expected a validity buffer"),
        (Field("+w:3", children=(Field("c"),)), Data(2, 0, (None,), (Data(5, 0, (None, np.zeros(5, "i1"))),)), "of 6"),
        (Field("vu"), Data(1, 0, (None, np.zeros(16, "u1"))), "expected 3 buffers or more"),
        (Field("vu"), Data(1, 0, (None, np.zeros(16, "u1"), np.zeros(3, "u1"), np.array([4]))), "of 4 bytes, found 3"),
        (Field("vu"), Data(1, 0, (None, np.zeros(16, "u1"), np.zeros(3, "u1"), None)), "of 8 bytes, found none"),
        (Field("vu"), Data(1, 0, (None, np.zeros(16, "u1"), np.zeros(3, "u1"), np.array([-4]))), "sizes of buffers"),
    ],
)
def test_data_that_lie_are_not_exported(field: Field, data: Data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_array(field, data)


def test_runs_that_lie_are_not_exported() -> None:
    field = Field("+r", children=(Field("i"), Field("l")))
    for ends, values in (([2], [1]), ([], []), ([3, 5], [1]), ([5, 2], [1, 2])):
        below = (Data(len(ends), 0, (None, np.array(ends, "i4"))), Data(len(values), 0, (None, np.array(values, "i8"))))
        with pytest.raises(ValueError, match="expected run"):
            export_array(field, Data(4, 0, (), below))


def test_a_failing_producer() -> None:
    calls = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    fail = calls(lambda stream, out: errno.ENOTSUP)
    stream = abi.Stream(ctypes.cast(fail, ctypes.c_void_p), 0, 0, ctypes.cast(forget, ctypes.c_void_p))
    capsule = new_capsule(ctypes.addressof(stream), b"arrow_array_stream", None)
    with pytest.raises(OSError, match="ENOTSUP: no message|EOPNOTSUPP: no message"):
        import_stream(capsule)
    nothing = calls(lambda stream, out: 0)
    for call, message in ((nothing, "found a released one"), (None, "with callbacks, found NULL")):
        address = None if call is None else ctypes.cast(call, ctypes.c_void_p)
        stream = abi.Stream(address, 0, 0, ctypes.cast(forget, ctypes.c_void_p))
        capsule = new_capsule(ctypes.addressof(stream), b"arrow_array_stream", None)
        refused(message, import_stream, capsule)


# --- processes ---------------------------------------------------------------------------------------

SCRIPT = """
import builtins, os, sys, threading, weakref
import numpy as np
from mmstore.exchange import cdata_out
from mmstore.exchange.cdata import Data, Field, export_array, export_stream, import_array, import_stream

FIELD = Field("+s", nullable=False, children=(Field("l", "x"), Field("U", "s")))

def data():
    n = 1000
    text = Data(n, 0, (None, np.arange(n + 1), np.full(n, 97, "u1")))
    return Data(n, 0, (None,), (Data(n, 0, (None, np.arange(n))), text))

class Shown:
    def __arrow_c_array__(self, requested_schema=None):
        return export_array(FIELD, data())
    def __arrow_c_stream__(self, requested_schema=None):
        return export_stream(FIELD, (data() for _ in range(20)))

shown = Shown()
"""
LEAVING = {
    "duckdb": """
        import duckdb
        con = duckdb.connect()
        import pyarrow as pa
        pending = pa.RecordBatchReader.from_stream(con.sql("select * from shown"))
        first = pending.read_next_batch()
        cursor = duckdb.execute("select x, s from shown")
        row = cursor.fetchone()
    """,
    "polars": """
        import polars as pl
        frame = pl.DataFrame(shown)
        lazy = frame.lazy().filter(pl.col("x") > 5)
        builtins.frame = pl.DataFrame(shown)
        series = pl.Series(shown)
    """,
    "pyarrow": """
        import pyarrow as pa
        reader = pa.RecordBatchReader.from_stream(shown)
        batch = reader.read_next_batch()
        builtins.reader = pa.RecordBatchReader.from_stream(shown)
        builtins.batch = builtins.reader.read_next_batch()
        cycle = [pa.table(shown)]
        cycle.append(cycle)
    """,
    "nothing": """
        stream = export_stream(FIELD, iter([data()]))
        builtins.stream = export_stream(FIELD, iter([data()]))
        field, batches = import_stream(shown)
        batch = next(batches)
        builtins.batch = next(batches)
    """,
    "fork": """
        arrays = [import_array(export_array(FIELD, data())) for _ in range(3)]
        x = arrays[0][1].children[0].buffers[1]
        child = os.fork()
        if child == 0:
            stream = import_stream(shown)[1]
            assert sum(batch.length for batch in stream) == 20_000
            arrays.clear()
            assert x.sum() == 499_500
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert x.sum() == 499_500
    """,
}


THREADS = """
    import pyarrow as pa

    def work():
        try:
            while True:
                pa.table(shown)
        except OSError:  # no more batches from here on
            threading.Event().wait()

    class Shown:
        def __arrow_c_stream__(self, requested_schema=None):
            return export_stream(FIELD, (data() for _ in range(20)))

    shown = Shown()
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    for _ in range(50):
        pa.table(shown)
"""


def run(script: str) -> None:
    """Nothing must go wrong, nor be said, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SCRIPT + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")


if COMPILED:

    @pytest.mark.parametrize("kernel", ["compiled"], indirect=True)
    def test_the_interpreter_ends_while_threads_ask_for_more() -> None:
        run(THREADS)


@pytest.mark.parametrize("kernel", [next(iter(MODULES))], indirect=True)  # uncompiled, too, where that is installed
@pytest.mark.parametrize("consumer", LEAVING)
def test_the_interpreter_ends_while_others_hold_our_data(consumer: str) -> None:
    run(LEAVING[consumer])
