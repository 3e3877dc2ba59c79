"""The subcommands: each checks its arguments, calls the library once and prints.

Errors of the library become one line on standard error and exit code 1; a missing key is exit code 1, too.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

from mmstore import format as fmt
from mmstore.cli import dump as drawing
from mmstore.database import Database
from mmstore.database import open as open_store
from mmstore.disk.posix import PosixFilesystem
from mmstore.errors import Error
from mmstore.integrations import load as loading

__all__ = ["mmstore"]

STORE = click.argument("store", type=click.Path(dir_okay=False))
KEYSPACE = click.option(
    "--keyspace", "-k", default="", metavar="K", help="A named keyspace instead of the store's own."
)
HEX = click.option("--hex", "as_hex", is_flag=True, help="Keys and values are hexadecimal digits.")


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """One line instead of a traceback for what users can mend."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output has seen enough; click knows what to do
        raise
    except (Error, OSError, ImportError, TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def _opened(path: str, flag: str) -> Iterator[Database]:
    with _errors(), open_store(path, flag) as database:
        yield database


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mmstore")
def mmstore() -> None:
    """One mapped file that is a crash-safe dict and a set of numpy columns."""


# --- loading -----------------------------------------------------------------------------------------


@mmstore.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@STORE
@click.option("--table", "-t", metavar="T", help="Load into the table T.")
@click.option("--keyspace", "-k", metavar="K", help="Load into the keyspace K; needs --key.")
@click.option("--key", metavar="COL", help="The column that holds the keys (of the store's own keyspace without -k).")
@click.option("--value", metavar="COL", help="The column that holds the values; without it each row is kept as JSON.")
@click.option(
    "--schema", "-s", multiple=True, metavar="COL=TYPE", help="A column's type, as i4, f4, S16, datetime64[s]."
)
@click.option("--delimiter", "-d", default=",", show_default=True)
@click.option("--replace", is_flag=True, help="Drop what the table or keyspace holds.")
@click.option("--append", is_flag=True, help="Add to what it holds.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def load(
    inputs: tuple[str, ...],
    store: str,
    table: str | None,
    keyspace: str | None,
    key: str | None,
    value: str | None,
    schema: tuple[str, ...],
    delimiter: str,
    replace: bool,
    append: bool,
    quiet: bool,
) -> None:
    """Load CSV files (also .zip, .gz, .bz2, .zst; - for standard input) in one atomic commit.

    Types come from the data; text becomes fixed-width bytes.  If a file can be read only once and a later value
    doesn't fit, name the column's type with --schema.
    """
    if table is None and key is None:
        raise click.UsageError("name a --table, or with --key a keyspace")
    if delimiter == "\\t":
        delimiter = "\t"
    types = dict(_named_type(item) for item in schema)
    with _errors(), _bar(quiet) as progress:
        done = loading.load(
            inputs,
            store,
            table=table,
            keyspace=keyspace if table is not None or keyspace is not None else "",
            key=key,
            value=value,
            schema=types or None,
            replace=replace,
            append=append,
            delimiter=delimiter,
            progress=progress,
        )
    where = (
        f"table {table}" if table is not None else f"keyspace {keyspace}" if keyspace else "the store's own keyspace"
    )
    click.echo(f"{done.rows:,} rows into {where} in {done.seconds:.2f} s", err=True)


def _named_type(item: str) -> tuple[str, str]:
    name, equals, kind = item.rpartition("=")
    if not equals or not name or not kind:
        raise click.BadParameter(f"expected COL=TYPE, found {item!r}", param_hint="--schema")
    return name, kind


@contextlib.contextmanager
def _bar(quiet: bool) -> Iterator[Any]:
    """A progress bar on standard error, as the function that `load` calls; None where nobody sees it."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.fields[rows]:,} rows"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, rows=0)

        def show(read: int, size: int | None, rows: int) -> None:
            bar.update(task, completed=read, total=size, rows=rows)

        yield show


# --- records -----------------------------------------------------------------------------------------


@mmstore.command()
@STORE
@click.argument("key")
@KEYSPACE
@HEX
def get(store: str, key: str, keyspace: str, as_hex: bool) -> None:
    """Print the value of KEY as it is; exit code 1 if there is none."""
    with _opened(store, "r") as database:
        mapping = database.keyspace(keyspace) if keyspace else database
        found = mapping.get(_bytes(key, as_hex))
    if found is None:
        raise click.ClickException(f"no key {key!r} in {f'keyspace {keyspace!r}' if keyspace else store}")
    click.echo(found.hex() if as_hex else found, nl=as_hex or sys.stdout.isatty())


@mmstore.command()
@STORE
@click.argument("key")
@click.argument("value", required=False)
@click.option("--file", "-f", "source", type=click.File("rb"), help="Take the value from a file, - for standard input.")
@KEYSPACE
@HEX
def put(store: str, key: str, value: str | None, source: BinaryIO | None, keyspace: str, as_hex: bool) -> None:
    """Set KEY to VALUE in one durable commit; the store is made if missing."""
    if (value is None) == (source is None):
        raise click.UsageError("give either a VALUE or --file")
    data = source.read() if source is not None else _bytes(value or "", as_hex)
    with _opened(store, "c") as database:
        mapping = database.keyspace(keyspace) if keyspace else database
        mapping[_bytes(key, as_hex)] = data


def _bytes(text: str, as_hex: bool) -> bytes:
    if not as_hex:
        return text.encode("utf-8", "surrogateescape")
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise click.BadParameter(f"expected hexadecimal digits, found {text!r}") from error


# --- looking -----------------------------------------------------------------------------------------


@mmstore.command()
@STORE
@click.argument("name", required=False)
@click.option("--limit", "-n", default=20, show_default=True, help="Records shown of a keyspace.")
def ls(store: str, name: str | None, limit: int) -> None:
    """What the store holds; with NAME, a table's columns or a keyspace's first records (- is the store's own)."""
    with _opened(store, "r") as database, database.snapshot() as snapshot:
        if name is None:
            grid = Grid("name", "kind", "size", "columns", box=None, pad_edge=False)
            grid.add_row("-", "keyspace", f"{len(snapshot):,} records", "")
            for known in snapshot.keyspaces():
                grid.add_row(known, "keyspace", f"{len(snapshot.keyspace(known)):,} records", "")
            for known in snapshot.tables():
                table = snapshot.table(known)
                grid.add_row(known, "table", f"{len(table):,} rows", ", ".join(table.schema.names))
        elif name in snapshot.tables():
            grid = Grid("column", "type", "bytes a row", box=None, pad_edge=False)
            for column in snapshot.table(name).schema:
                grid.add_row(column.name, str(column), str(column.row_size))
        else:
            mapping = snapshot if name == "-" else snapshot.keyspace(name)
            grid = Grid("key", "value", box=None, pad_edge=False)
            for _, (key, value) in zip(range(limit), mapping.items(), strict=False):
                grid.add_row(
                    repr(key), repr(value) if len(value) < 200 else f"{value[:80]!r}... ({len(value):,} bytes)"
                )
        _print(grid)


@mmstore.command()
@STORE
def stat(store: str) -> None:
    """Sizes, pages by kind, free and held space, log, readers, checkpoints."""
    with _opened(store, "r") as database:
        grid = Grid("", "", show_header=False, box=None, pad_edge=False)
        for name, value in _flat(database.stats()):
            grid.add_row(name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
        _print(grid)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@mmstore.command()
@STORE
def check(store: str) -> None:
    """Prove that every page is in one place and every checksum and count right; exit code 1 if not."""
    with _opened(store, "r") as database:
        problems = database.check()
    for problem in problems:
        click.echo(str(problem))
    if problems:
        raise click.ClickException(f"{len(problems)} problems in {store}")
    click.echo("no problems", err=True)


@mmstore.command()
@STORE
@click.argument("pages", nargs=-1, type=int, metavar="[PAGE]...")
def dump(store: str, pages: tuple[int, ...]) -> None:
    """The file's fixed structs, or the pages with the given numbers, for human eyes.

    Reads the file alone, without attaching to the store, damaged or not.
    """
    with _errors():
        file = PosixFilesystem().open(str(Path(store).resolve()), write=False)
        try:
            if not pages:
                for line in drawing.fixed(file):
                    click.echo(line)
                return
            page_size = fmt.IDENTITY.unpack(file.pread(fmt.IDENTITY.size, fmt.IDENTITY_AT))["page_size"]
            if not fmt.MIN_PAGE_SIZE <= page_size <= fmt.MAX_PAGE_SIZE:
                raise click.ClickException(f"{store} says that its pages have {page_size} bytes; is it a store?")
            for number in pages:
                for line in drawing.page(file, number, page_size):
                    click.echo(line)
        finally:
            file.close()


def _print(grid: Grid) -> None:
    """To a terminal in its width, else as wide as it gets."""
    console = Console()
    Console(width=None if console.is_terminal else 10_000, soft_wrap=True).print(grid)
