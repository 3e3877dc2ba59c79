"""placeholder"""

from __future__ import annotations

from typing import Any


def copy_slices(source: Any, starts: Any, out_offsets: Any, out: Any) -> int:
    size = len(source)
    ends = out_offsets.tolist()
    for i, start in enumerate(starts.tolist()):
        n = ends[i + 1] - ends[i]
        if start < 0 or n < 0 or start + n > size:
            return i
        out[ends[i] : ends[i + 1]] = source[start : start + n]
    return -1


def check_offsets(offsets: Any, limit: int) -> int:
    if offsets[0] < 0:
        return 0
    wrong = (offsets[1:] < offsets[:-1]).nonzero()[0]
    if len(wrong):
        return int(wrong[0]) + 1
    return -1 if offsets[-1] <= limit else len(offsets) - 1


def check_utf8(data: Any, offsets: Any) -> int:
    raw = bytes(data)
    ends = offsets.tolist()
    for i in range(len(ends) - 1):
        try:
            raw[ends[i] : ends[i + 1]].decode()
        except UnicodeDecodeError:
            return i
    return -1


def check_codes(codes: Any, count: int) -> int:
    wrong = ((codes < 0) | (codes >= count)).nonzero()[0]
    return int(wrong[0]) if len(wrong) else -1


def copy_views(views: Any, buffers: Any, out_offsets: Any, out: Any) -> int:
    words = views.view("<i4").reshape(-1, 4).tolist()
    raw = views.tobytes()
    ends = out_offsets.tolist()
    for i, (n, _, which, at) in enumerate(words):
        if n <= 12:
            out[ends[i] : ends[i + 1]] = memoryview(raw[16 * i + 4 : 16 * i + 4 + n])
        else:
            piece = memoryview(buffers[which])[at : at + n]
            if len(piece) != n:
                return i
            out[ends[i] : ends[i + 1]] = piece
    return -1
