"""What the subcommands share: arguments, errors as one line, progress bars."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mmstore.database import Database
from mmstore.database import open as open_store
from mmstore.errors import Error

__all__ = ["HEX", "KEYSPACE", "STORE", "bar", "errors", "opened"]

STORE = click.argument("store", type=click.Path(dir_okay=False))
KEYSPACE = click.option(
    "--keyspace", "-k", default="", metavar="K", help="A named keyspace instead of the store's own."
)
HEX = click.option("--hex", "as_hex", is_flag=True, help="Keys and values are hexadecimal digits.")


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """One line instead of a traceback for what users can mend."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output has seen enough; click knows what to do
        raise
    except KeyError as error:
        raise click.ClickException(str(error.args[0]) if error.args else "a key is missing") from error
    except (Error, OSError, ImportError, TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def opened(path: str, flag: str) -> Iterator[Database]:
    """The store, open within the block."""
    with errors(), open_store(path, flag) as database:
        yield database


@contextlib.contextmanager
def bar(quiet: bool, *, sized: bool = True) -> Iterator[Any]:
    """A progress bar on standard error, as the function to call with (done, in all, rows); None where nobody sees it.

    `sized`: whether done and in all are bytes, else they are rows.
    """
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    rows = TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f} rows/s")
    columns = (BarColumn(), *((DownloadColumn(), TransferSpeedColumn()) if sized else ()), rows, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None, rows=0, rate=0.0)

        def show(done: int, total: int | None, rows: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            progress.update(task, completed=done, total=total, rows=rows, rate=rows / elapsed if elapsed else 0.0)

        yield show
