"""An exception such as KeyboardInterrupt at a chosen moment within a module: ``struck(call, module, at)``.

Python looks for signals when a function begins, when a loop goes round and when a call into C has returned; so
these are the moments.  Between other bytecodes, such as the end of a ``with`` block and its ``__exit__``, none comes.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType, ModuleType
from typing import Any

__all__ = ["Strike", "struck"]


class Strike(BaseException):
    """Stands for KeyboardInterrupt, which would end the test run where it is not caught."""


@cache
def moments(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions before which a signal may be handled."""
    found, before = set(), ""
    for instruction in dis.get_instructions(code):
        if before.startswith(("CALL", "RESUME")):
            found.add(instruction.offset)
        if instruction.opname.startswith("JUMP_BACKWARD"):
            found.add(instruction.argval)
        before = instruction.opname
    return frozenset(found)


def struck(call: Callable[[], Any], module: ModuleType, at: int) -> bool:
    """Run ``call`` until moment number ``at`` within ``module``, and strike there; False: it ended before."""
    seen = 0

    def local(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if event == "opcode" and frame.f_lasti in moments(frame.f_code):
            seen += 1
            if seen > at:
                raise Strike
        return local

    def follow(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        return local

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        call()
    except Strike:
        return True
    finally:
        sys.settrace(before)
    return False
