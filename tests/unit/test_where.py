"""Conditions: as text, as tuples, on Arrow and numpy batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mmstore
from mmstore.integrations.inputs.base import ArrayBatch
from mmstore.integrations.where import chosen, conditions, scanned

BATCH = pa.record_batch(
    {
        "n": pa.array([1, 2, None, 4]),
        "f": pa.array([0.5, float("nan"), 2.0, None]),
        "s": ["x", "y z", "", "x"],
        "day": pa.array([0, 1, 2, 3], pa.date32()),
        "cat": pa.array(["a", "b", None, "a"]).dictionary_encode(),
        "b": pa.array([b"1", b"2", b"x", b"4"]),
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("n>=2", [1, 3]),
        ("n != 2", [0, 3]),
        ("n = 4", [3]),
        ("n is null", [2]),
        ("n IS NOT NULL", [0, 1, 3]),
        ("n in 1,4", [0, 3]),
        ("n in (2, 9)", [1]),
        ("f < 1.5", [0]),
        ("s == x", [0, 3]),
        ("s = 'y z'", [1]),
        ('s == ""', [2]),
        ("s in x, 'y z'", [0, 1, 3]),
        ("day>1970-01-02", [2, 3]),
        ("cat == a", [0, 3]),
        ("b == x", [2]),
    ],
)
def test_text(text: str, rows: list[int]) -> None:
    found = chosen(BATCH, conditions(text))
    assert found["day"].equals(BATCH["day"].take(rows)) and found.schema == BATCH.schema


def test_all_of_several() -> None:
    assert chosen(BATCH, conditions(["n >= 2", ("s", "==", "x")]))["day"].to_pylist() == [BATCH["day"][3].as_py()]
    assert chosen(BATCH, conditions(("n", "in", [1, 2]))).num_rows == 2
    assert chosen(BATCH, conditions(None)) is BATCH


@pytest.mark.parametrize(
    ("text", "rows"),
    [("n>=2", [1, 2]), ("s==b", [1]), ("t is null", [2]), ("t is not null", [0, 1]), ("n in 1,3", [0, 2]),
     ("t > 2020-01-01", [1]), ("s != b", [0, 2])],
)  # fmt: skip
def test_arrays(text: str, rows: list[int]) -> None:
    batch = ArrayBatch(
        {"n": np.array([1, 2, 3]), "s": np.array(["a", "b", "c"]), "t": np.array(["2020", "2021", "NaT"], "M8[D]")}
    )
    found = chosen(batch, conditions(text))
    assert found.columns["n"].tolist() == batch.columns["n"][rows].tolist()


@pytest.mark.parametrize("wrong", ["n", "n ~ 3", "", 5, ("n", "~", 3), ("n", "==")])
def test_no_conditions(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected a condition"):
        conditions([wrong])


def test_values_of_another_type() -> None:
    with pytest.raises(mmstore.SchemaError, match="column 'n': 'many' is no int64"):
        chosen(BATCH, conditions("n > many"))
    with pytest.raises(mmstore.SchemaError, match="column 'n': 'many' is no int64"):
        chosen(ArrayBatch({"n": np.arange(3)}), conditions("n > many"))
    assert scanned(("n", "in", ["1", "2"]), pa.int64()) == ("n", "in", [1, 2])
    assert scanned(("n", "is null", None), pa.int64()) == ("n", "is null")
