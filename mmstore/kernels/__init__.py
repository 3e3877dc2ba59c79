"""Leaf code on raw buffers: hashing, search and insert in pages, gathers, atomics.

Each kernel is plain typed Python in ``X.py`` with C types for Cython in ``X.pxd`` beside it; the same
source runs compiled or not and gives the same bytes (I10).  Kernels import nothing of mmstore but
each other, ``format`` and ``errors``.
"""

from __future__ import annotations

from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

__all__ = ["compiled"]


@cache
def compiled() -> bool:
    """Whether every kernel runs compiled."""
    names = [pxd.stem for pxd in Path(__file__).parent.glob("*.pxd") if pxd.with_suffix(".py").exists()]
    specs = [find_spec(f"{__name__}.{name}") for name in names]
    return bool(names) and all(
        spec and spec.origin and spec.origin.endswith(tuple(EXTENSION_SUFFIXES)) for spec in specs
    )
