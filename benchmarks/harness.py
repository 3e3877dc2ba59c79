"""What the benchmarks share: the header, medians, tables.

Absolute times on shared machines drift by a factor of two, so engines take turns within each round and the
figures to look at are ratios of medians taken in one run.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import mmstore

__all__ = ["header", "markdown", "median", "timed"]


def header(what: str) -> str:
    """What was measured, on what."""
    return (
        f"{what}\n"
        f"mmstore {mmstore.__version__}, compiled: {mmstore.compiled()}; CPython {platform.python_version()}, "
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores\n"
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def markdown(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table with a name at the start of each row."""
    table = [["", *columns], *([name, *cells] for name, cells in rows.items())]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns) + 1)]
    lines = []
    for name, *cells in table:
        padded = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(padded)} |")
    rule = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    lines.insert(1, f"|{'|'.join(rule)}|")
    return "\n".join(lines) + "\n"
