"""What the documents say is what the code does: tables equal, code blocks and examples run, links lead somewhere."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("benchmarks/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(CHECKOUT)) for page in PAGES])


def test_format_tables_are_the_code_s() -> None:
    updated = runpy.run_path(str(CHECKOUT / "docs" / "update.py"))["updated"]
    page = (CHECKOUT / "docs" / "format.md").read_text(encoding="utf-8")
    assert page == updated(page), "run python docs/update.py"


@every_page
def test_links(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_source_is_read_in_eight_stops() -> None:
    page = (CHECKOUT / "docs" / "reading.md").read_text(encoding="utf-8")
    assert re.findall(r"^\*\*(\d+)\. ", page, re.MULTILINE) == [str(n) for n in range(1, 9)]


@every_page
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, in one namespace and an empty folder."""
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start(1))
        exec(compile("\n" * line + found[1], str(page), "exec"), namespace)


EXAMPLES = {
    "embeddings": "a view from before still has 10,000",
    "featurestore": "two workers summed",
    "flights": "nothing is lost",
    "timeseries": "the other process read 5,000 new ticks",
}


def test_every_example_is_run() -> None:
    assert sorted(EXAMPLES) == sorted(path.stem for path in (CHECKOUT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    """Examples assert what they show; here only that they came to their end."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(CHECKOUT / "examples" / f"{name}.py"), str(tmp_path / "data.mms")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert EXAMPLES[name] in done.stdout
