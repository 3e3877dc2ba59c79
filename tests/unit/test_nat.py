"""NaT, which Arrow doesn't have, is null there and NaT again when it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pytest

import mmstore
from mmstore import SchemaError, nullable
from mmstore import format as fmt
from mmstore.database.database import Database
from mmstore.exchange import arrow_out

TYPES = ["M8[ns]", "M8[s]", "M8[D]", "M8[h]", "M8[M]", "M8[ps]", "m8[us]", "m8[D]", "m8[ps]", "timestamp[us, UTC]"]
every_type = pytest.mark.parametrize("spec", TYPES)
NAT = fmt.BLOCK_ROWS + 7
ROWS = 2 * fmt.BLOCK_ROWS + 5


@pytest.fixture
def db() -> Iterator[Database]:
    with mmstore.open(":memory:") as store:
        yield store
        assert store.check() == []


def times(spec: str, n: int = 5) -> Any:
    """n values, NaT at 1 and at the end."""
    values = np.arange(n).astype("M8[us]" if spec.startswith("timestamp") else spec)
    values[1] = values[-1] = "NaT"
    return values


def numbers(array: Any) -> list[Any]:
    """An Arrow array's numbers, None where it has none."""
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    wide = pa.int32() if pa.types.is_date32(whole.type) else pa.int64()
    return whole.cast(wide).to_pylist()  # type: ignore[no-any-return]


@every_type
def test_there_and_back(db: Database, spec: str) -> None:
    values = times(spec)
    table = db.create_table("t", {"x": spec, "y": nullable(spec)})
    table.append({"x": values, "y": np.ma.MaskedArray(values, [True, False, False, False, False])})
    arrow = table.to_arrow()
    arrow.validate(full=True)
    assert arrow["x"].null_count == 2 and arrow["y"].null_count == 3
    assert [one is None for one in numbers(arrow["x"])] == [False, True, False, False, True]
    assert [one is None for one in numbers(arrow["y"])] == [True, True, False, False, True]
    assert numbers(arrow["x"])[2:4] == numbers(arrow["y"])[2:4]
    twin = db.create_table("twin", arrow.schema)
    assert twin.schema.columns == table.schema.columns
    for data in (arrow, table, table[1:4], table.take([4, 0]), arrow.slice(1, 2)):
        twin.append(data)
    expected = np.concatenate([values, values, values[1:4], values[[4, 0]], values[1:3]])
    assert np.array_equal(twin["x"].view("i8"), expected.view("i8"))
    assert twin["y"].tolist()[:5] == [None, None, *values[2:4], None]


@every_type
@pytest.mark.parametrize("start, stop", [(0, 5), (1, 2), (2, 4), (3, 5), (2, 2)])
def test_slices(db: Database, spec: str, start: int, stop: int) -> None:
    table = db.create_table("t", {"x": spec, "y": nullable(spec)})
    table.append({"x": times(spec), "y": times(spec)})
    whole = table.to_arrow()
    assert pa.table(table[start:stop]).equals(whole.slice(start, stop - start))
    part = pa.array(table["y"][start:stop])
    part.validate(full=True)
    assert part.equals(whole["y"].combine_chunks().slice(start, stop - start))
    assert part.null_count == sum(at in (1, 4) for at in range(start, stop))


def test_elements(db: Database) -> None:
    """Those of lists and shapes, also of units that Arrow lacks."""
    columns: dict[str, Any] = {}
    for unit in ("us", "D"):
        pair = np.array([[1, 2], ["NaT", 3], [4, "NaT"]], f"M8[{unit}]")
        columns |= {
            unit: ((f"M8[{unit}]", 2), pair),
            f"l{unit}": (f"list(M8[{unit}])", [pair[0], pair[1], pair[2][:0]]),
        }
    table = db.create_table("t", {name: spec for name, (spec, _) in columns.items()})
    table.append({name: values for name, (_, values) in columns.items()})
    arrow = table.to_arrow()
    arrow.validate(full=True)
    assert [[one is None for one in row] for row in arrow["D"].to_pylist()] == [
        [False] * 2,
        [True, False],
        [False, True],
    ]
    assert [[one is None for one in row] for row in arrow["lus"].to_pylist()] == [[False] * 2, [True, False], []]
    twin = db.create_table("twin", arrow.schema)
    assert twin.schema.columns == table.schema.columns
    for data in (arrow, table[1:]):
        twin.append(data)
    for name, (_, values) in columns.items():
        for found, expected in zip(twin[name], [*values, *values[1:]], strict=True):
            assert np.array_equal(np.asarray(found).view("i8"), expected.view("i8"))


def test_lists_of_what_arrow_has_in_other_bytes(db: Database) -> None:
    """Their elements are converted as those of plain columns are."""
    table = db.create_table(
        "t", {"d": "list(M8[D])", "h": "list(M8[h])", "u": "list(U3)", "n": nullable("list(M8[D])")}
    )
    days = [np.array([1, 40000], "M8[D]"), np.array([], "M8[D]"), np.array([-1], "M8[D]")]
    hours = [day.astype("M8[h]") for day in days]
    texts = [["a", "äöü"], [], ["b"]]
    table.append({"d": days, "h": hours, "u": texts, "n": [days[0], None, days[2]]})
    arrow = table.to_arrow()
    arrow.validate(full=True)
    assert (
        arrow["d"].to_pylist()
        == [day.tolist() for day in days]
        == [[one.date() for one in row] for row in arrow["h"].to_pylist()]
    )
    assert arrow["u"].to_pylist() == texts and pa.table(table[1:])["u"].to_pylist() == texts[1:]
    assert arrow["n"].to_pylist() == [days[0].tolist(), None, days[2].tolist()]
    twin = db.create_table("twin", arrow.schema)
    assert twin.schema.columns == table.schema.columns and twin.append(table) == range(3)
    assert [row.tolist() for row in twin["u"]] == texts


def test_nothing_is_copied_or_read(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches without NaT lie in the file; a table's statistics say so, a column's values are read through."""
    looked: list[int] = []
    true = arrow_out.extremes
    monkeypatch.setattr(arrow_out, "extremes", lambda values: looked.append(len(values)) or true(values))
    table = db.create_table("t", {"x": "M8[us]", "y": nullable("M8[us]")})
    values = np.arange(ROWS).astype("M8[us]")
    table.append({"x": values, "y": values})
    address = table["x"].ctypes.data
    chunk = table.to_arrow()["x"].chunk(0)
    assert chunk.buffers()[1].address == address and chunk.buffers()[0] is None and not looked
    column = pa.array(table["y"])
    assert column.buffers()[1].address == table["y"].values.ctypes.data and looked == [ROWS]
    looked.clear()
    table.update([NAT], {"x": np.array(["NaT"], "M8[us]")})
    address = table["x"].ctypes.data
    batches = [pa.record_batch(rows) for rows in table]
    assert looked == [fmt.BLOCK_ROWS]  # of three blocks the one that has it
    assert [batch["x"].null_count for batch in batches] == [0, 1, 0]
    assert [batch["x"].buffers()[0] is None for batch in batches] == [True, False, True]
    inside = range(address, address + table["x"].nbytes)
    assert all(batch["x"].buffers()[1].address in inside for batch in batches)
    assert batches[1]["x"].is_null().to_numpy(zero_copy_only=False).nonzero()[0].tolist() == [7]


def test_others_see_nulls(db: Database) -> None:
    table = db.create_table("t", {"x": "M8[us]"})
    table.append({"x": times("M8[us]")})
    assert polars.DataFrame(table)["x"].null_count() == 2
    assert table.to_pandas()["x"].isna().tolist() == [False, True, False, False, True]


def test_a_null_is_no_nat_of_itself(db: Database) -> None:
    """Only where the field says that its nulls are NaT; and no date in 4 bytes is NaT."""
    table = db.create_table("t", {"x": "M8[us]"})
    with pytest.raises(SchemaError, match="'x'.*1 rows are null"):
        table.append({"x": pa.array([1, None], pa.timestamp("us"))})
    days = db.create_table("d", {"x": "date32", "y": "time64[us]"})
    assert [field.nullable for field in pa.schema(days.to_arrow().schema)] == [False, False]
    pairs = db.create_table("p", {"x": ("i8", 2)})
    with pytest.raises(SchemaError, match="null elements"):
        pairs.append({"x": pa.array([[1, None]], pa.list_(pa.int64(), 2))})
