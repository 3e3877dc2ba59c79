"""xxh3_64 against the xxhash package, for every length and both ways of running."""

from __future__ import annotations

import random
from typing import Any

import pytest
import xxhash

from bothkernels import BOTH, IDS

SEEDS = (0, 1, 99, (1 << 63) + 12345, (1 << 64) - 1)
DATA = random.Random(1).randbytes(70000)


@pytest.mark.parametrize("kernels", BOTH, ids=IDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_length(kernels: Any, seed: int) -> None:
    for n in [*range(600), 1023, 1024, 1025, 1087, 1088, 1089, 2000, 2047, 2048, 2049, 4088, 65528, 70000]:
        data = DATA[:n]
        assert kernels.hashing.xxh3_64(data, seed) == xxhash.xxh3_64_intdigest(data, seed), n


@pytest.mark.parametrize("kernels", BOTH, ids=IDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_algorithm_itself(kernels: Any, seed: int) -> None:
    for n in range(241):
        data = DATA[-n:] if n else b""
        assert kernels.hashing.algorithm(data, seed) == xxhash.xxh3_64_intdigest(data, seed), n
    with pytest.raises(ValueError, match="240"):
        kernels.hashing.algorithm(bytes(241), seed)


@pytest.mark.parametrize("kernels", BOTH, ids=IDS)
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x80"])
def test_extreme_bytes(kernels: Any, fill: bytes) -> None:
    """Sign extension and lost carries show here."""
    for n in range(1, 241):
        assert kernels.hashing.xxh3_64(fill * n, (1 << 64) - 1) == xxhash.xxh3_64_intdigest(fill * n, (1 << 64) - 1)


@pytest.mark.parametrize("kernels", BOTH, ids=IDS)
def test_any_buffer(kernels: Any) -> None:
    expected = xxhash.xxh3_64_intdigest(b"sixteen byte key")
    for key in (bytearray(b"sixteen byte key"), memoryview(b"..sixteen byte key")[2:]):
        assert kernels.hashing.xxh3_64(key) == expected
