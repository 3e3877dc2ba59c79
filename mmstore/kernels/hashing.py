"""xxh3_64: the hash of keys and the checksum of pages.

A call into the xxhash package costs more than hashing a key, so compiled runs have the algorithm here and,
for more than 240 bytes, in ``native.h``; in uncompiled runs the package does it.  It is XXH3 of xxHash 0.8 by
Yann Collet (its specification: doc/xxhash_spec.md there); the tests compare both for every length.
"""

from __future__ import annotations

from typing import Any

from mmstore.kernels import raw

__all__ = ["algorithm", "xxh3_64"]

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
secret = raw.content(SECRET)
SHORT = 240  # longest input that is hashed here
MASK64 = 0xFFFF_FFFF_FFFF_FFFF
PRIME_1 = 0x9E37_79B1_85EB_CA87  # XXH_PRIME64_1, 2 and 3, PRIME_MX1 and 2
PRIME_2 = 0xC2B2_AE3D_27D4_EB4F
PRIME_3 = 0x1656_67B1_9E37_79F9
PRIME_4 = 0x1656_6791_9E37_79F9
PRIME_5 = 0x9FB2_1C65_1E98_DF25
BYTES = 0x00FF_00FF_00FF_00FF  # every other
PAIRS = 0x0000_FFFF_0000_FFFF
MASK32 = 0xFFFF_FFFF


def xxh3_64(data: Any, seed: int = 0) -> int:
    """xxh3_64 of a bytes-like object."""
    return hash64(raw.address(data), 0, len(data), seed)


def algorithm(data: bytes, seed: int = 0) -> int:
    """The same for at most 240 bytes by the algorithm below, also uncompiled: for the tests."""
    if len(data) > SHORT:
        raise ValueError(f"expected at most {SHORT} bytes, got {len(data)}; use xxh3_64")
    return _short(raw.content(data), 0, len(data), seed)


def hash64(buffer: Any, at: int, n: int, seed: int) -> int:
    """xxh3_64 of the bytes [at, at + n)."""
    if raw.COMPILED and n <= 240:
        return _short(buffer, at, n, seed)
    return raw.xxh3_long(buffer, at, n, seed, secret)


def _short(key: Any, at: int, n: int, seed: int) -> int:
    if n > 16:
        return _medium(key, at, n, seed) if n <= 128 else _middle(key, at, n, seed)
    if n > 8:
        low = raw.peek64(key, at) ^ ((raw.peek64(secret, 24) ^ raw.peek64(secret, 32)) + seed & MASK64)
        high = raw.peek64(key, at + n - 8) ^ ((raw.peek64(secret, 40) ^ raw.peek64(secret, 48)) - seed & MASK64)
        return _avalanche(n + _swap64(low) + high + raw.fold64(low, high) & MASK64)
    if n >= 4:
        seed ^= _swap64(seed & MASK32)
        h = raw.peek32(key, at + n - 4) + (raw.peek32(key, at) << 32) & MASK64
        h ^= (raw.peek64(secret, 8) ^ raw.peek64(secret, 16)) - seed & MASK64
        h ^= ((h << 49 | h >> 15) ^ (h << 24 | h >> 40)) & MASK64
        h = h * PRIME_5 & MASK64
        h ^= (h >> 35) + n
        h = h * PRIME_5 & MASK64
        return h ^ (h >> 28)
    if n > 0:
        h = raw.peek8(key, at) << 16 | raw.peek8(key, at + (n >> 1)) << 24 | raw.peek8(key, at + n - 1) | n << 8
        h ^= (raw.peek32(secret, 0) ^ raw.peek32(secret, 4)) + seed & MASK64
    else:
        h = seed ^ raw.peek64(secret, 56) ^ raw.peek64(secret, 64)
    h ^= h >> 33
    h = h * PRIME_2 & MASK64
    h ^= h >> 29
    h = h * PRIME_3 & MASK64
    return h ^ (h >> 32)


def _medium(key: Any, at: int, n: int, seed: int) -> int:
    h = n * PRIME_1 & MASK64
    i = (n - 1) >> 5  # pairs of 16 bytes from both ends, the inner ones first
    while i >= 0:
        h += _mix(key, at + 16 * i, 32 * i, seed) + _mix(key, at + n - 16 * (i + 1), 32 * i + 16, seed)
        i -= 1
    return _avalanche(h & MASK64)


def _middle(key: Any, at: int, n: int, seed: int) -> int:
    h = n * PRIME_1 & MASK64
    for i in range(8):
        h += _mix(key, at + 16 * i, 16 * i, seed)
    h = _avalanche(h & MASK64)
    for i in range(8, n >> 4):
        h += _mix(key, at + 16 * i, 16 * (i - 8) + 3, seed)
    h += _mix(key, at + n - 16, 136 - 17, seed)
    return _avalanche(h & MASK64)


def _mix(key: Any, at: int, word: int, seed: int) -> int:
    return raw.fold64(
        raw.peek64(key, at) ^ (raw.peek64(secret, word) + seed & MASK64),
        raw.peek64(key, at + 8) ^ (raw.peek64(secret, word + 8) - seed & MASK64),
    )


def _avalanche(h: int) -> int:
    h ^= h >> 37
    h = h * PRIME_4 & MASK64
    return h ^ (h >> 32)


def _swap64(x: int) -> int:
    """The bytes of x in reverse order."""
    x = (x & BYTES) << 8 | (x >> 8) & BYTES
    x = (x & PAIRS) << 16 | (x >> 16) & PAIRS
    return (x << 32 | x >> 32) & MASK64
