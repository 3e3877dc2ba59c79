"""What the signs of conditions mean, in Python's own terms."""

from __future__ import annotations

import operator

COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
