"""Writes the format's tables, as the code prints them, between the markers of ``docs/format.md``.

Run ``python docs/update.py`` after a change of ``mmstore/format.py``; a test fails until it was run.
"""

from __future__ import annotations

from pathlib import Path

from mmstore import format as fmt

PAGE = Path(__file__).resolve().parent / "format.md"
START = "<!-- tables: written by docs/update.py -->\n"
END = "<!-- end of tables -->\n"


def updated(page: str) -> str:
    """The page with the code's tables in place of what stood between the markers."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"expected the lines {START!r} and {END!r} in {PAGE}")
    operations = "".join(f"| {code} | {text} |\n" for code, text in fmt.OPERATIONS.items())
    codes = f"### operations in the log\n\n| code | operation |\n|---:|---|\n{operations}"
    return f"{before}{START}\n{fmt.tables()}\n{codes}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
