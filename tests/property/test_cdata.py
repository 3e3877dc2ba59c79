"""Whatever pyarrow can make comes through our structs and back, and lies where it lay."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mmstore.exchange.cdata import Data, Field, export_array, export_stream, import_array, import_schema, import_stream

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


class Shown:
    def __init__(self, field: Field, data: Data) -> None:
        self.field = field
        self.data = data

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return export_array(self.field, self.data)


class Stream:
    def __init__(self, field: Field, batches: list[Data]) -> None:
        self.field = field
        self.batches = batches

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return export_stream(self.field, iter(self.batches))


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)


# type -> its values
PLAIN: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.null(), st.none()),
    (pa.bool_(), st.booleans()),
    *((getattr(pa, f"int{bits}")(), integers(bits, True)) for bits in (8, 16, 32, 64)),
    *((getattr(pa, f"uint{bits}")(), integers(bits, False)) for bits in (8, 16, 32, 64)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.float64(), st.floats(allow_nan=False)),
    *((make(), TEXT) for make in (pa.string, pa.large_string, pa.string_view)),
    *((make(), st.binary(max_size=20)) for make in (pa.binary, pa.large_binary, pa.binary_view)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.decimal128(15, 2), st.integers(-(10**15) + 1, 10**15 - 1).map(lambda n: decimal.Decimal(n).scaleb(-2))),
    (pa.date32(), st.dates()),
    (pa.time64("us"), st.times()),
    (pa.timestamp("us", "Europe/Berlin"), st.datetimes(timezones=st.just(datetime.UTC))),
    (pa.duration("s"), st.integers(-1000, 1000)),
]


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


@st.composite
def types(draw: st.DrawFn, depth: int = 3) -> tuple[Any, st.SearchStrategy[Any]]:
    """A type and a strategy for its values."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(PLAIN))
    shape = draw(st.sampled_from(["list", "large_list", "list_view", "fixed", "struct", "map"]))
    type, values = draw(types(depth - 1))
    if shape == "struct":
        others = [(f"f{i}", *draw(types(depth - 1))) for i in range(draw(st.integers(0, 2)))]
        fields = [("f", type, values), *others]
        return pa.struct([(name, kind) for name, kind, _ in fields]), st.fixed_dictionaries(
            {name: nullable(below) for name, _, below in fields}
        )
    if shape == "map":
        return pa.map_(pa.string(), type), st.lists(st.tuples(TEXT, nullable(values)), max_size=3)
    if shape == "fixed":
        n = draw(st.integers(1, 3))
        return pa.list_(type, n), st.lists(nullable(values), min_size=n, max_size=n)
    return getattr(pa, "list_" if shape == "list" else shape)(type), st.lists(nullable(values), max_size=3)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    type, values = draw(types())
    array = pa.array(draw(st.lists(nullable(values), max_size=12)), type)
    form = draw(st.sampled_from(["plain", "plain", "dictionary", "runs"]))
    if form == "dictionary" and not pa.types.is_nested(type) and "view" not in str(type):
        array = array.dictionary_encode()
    elif form == "runs":
        ends = pa.array(range(2, 2 * len(array) + 1, 2), draw(st.sampled_from([pa.int16(), pa.int32(), pa.int64()])))
        array = pa.RunEndEncodedArray.from_arrays(ends, array)
    start = draw(st.integers(0, len(array)))
    return array[start : draw(st.integers(start, len(array)))]


def buffers_of(data: Data) -> list[int]:
    """The addresses of all buffers that hold anything."""
    own = [buffer.ctypes.data for buffer in data.buffers if buffer is not None and data.length and buffer.nbytes]
    below = [*data.children, *([] if data.dictionary is None else [data.dictionary])]
    return own + [address for child in below for address in buffers_of(child)]


@settings(max_examples=200, deadline=None)
@given(arrays())
def test_arrays_come_through(array: Any) -> None:
    field, data = import_array(array)
    assert data.length == len(array) and (data.null_count in (-1, array.null_count) or field.format in ("+r", "n"))
    again = pa.array(Shown(field, data))
    again.validate(full=True)
    assert again.type == array.type and again.equals(array)
    twice_field, twice = import_array(Shown(field, data))
    assert twice_field == field and buffers_of(twice) == buffers_of(data)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(arrays(), min_size=1, max_size=4),
    st.lists(TEXT.filter(lambda text: "\0" not in text), min_size=4, max_size=4),
)
def test_batches_come_through(columns: list[Any], names: list[str]) -> None:
    n = min(map(len, columns))
    batch = pa.record_batch([column[:n] for column in columns], names=names[: len(columns)])
    table = pa.Table.from_batches([batch, batch[n // 2 :], batch[:0]])
    field, batches = import_stream(table)
    found = list(batches)
    again = pa.table(Stream(field, found))
    again.validate(full=True)
    assert again.schema == table.schema and again.equals(table)
    assert import_schema(table.schema) == field
