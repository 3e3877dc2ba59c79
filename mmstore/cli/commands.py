"""The subcommands: each checks its arguments, calls the library once and prints.

Errors of the library become one line on standard error and exit code 1; a missing key is exit code 1, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.console import Console
from rich.table import Table as Grid

from mmstore import format as fmt
from mmstore.cli import dump as drawing
from mmstore.cli.common import HEX, KEYSPACE, STORE, errors, opened
from mmstore.cli.loading import export, load
from mmstore.columns.types import FIXED
from mmstore.disk.posix import PosixFilesystem

__all__ = ["mmstore"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mmstore")
def mmstore() -> None:
    """One mapped file that is a crash-safe dict and a set of numpy columns."""


mmstore.add_command(load)
mmstore.add_command(export)


# --- records -----------------------------------------------------------------------------------------


@mmstore.command()
@STORE
@click.argument("key")
@KEYSPACE
@HEX
def get(store: str, key: str, keyspace: str, as_hex: bool) -> None:
    """Print the value of KEY as it is; exit code 1 if there is none."""
    with opened(store, "r") as database:
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
    name = _bytes(key, as_hex)
    data = source.read() if source is not None else _bytes(value or "", as_hex)
    with opened(store, "c") as database:
        mapping = database.keyspace(keyspace) if keyspace else database
        mapping[name] = data


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
    with opened(store, "r") as database, database.snapshot() as snapshot:
        if name is None:
            grid = Grid("name", "kind", "size", "columns", box=None, pad_edge=False)
            grid.add_row("-", "keyspace", f"{len(snapshot):,} records", "")
            for known in snapshot.keyspaces():
                grid.add_row(known, "keyspace", f"{len(snapshot.keyspace(known)):,} records", "")
            for known in snapshot.tables():
                table = snapshot.table(known)
                deleted = len(table) - table.live_rows
                size = f"{table.live_rows:,} rows" + (f", {deleted:,} deleted" if deleted else "")
                grid.add_row(known, "table", size, ", ".join(table.schema.names))
            for known in snapshot.arrays():
                array = snapshot.array(known)
                grid.add_row(known, "array", " x ".join(f"{n:,}" for n in array.shape), str(array.dtype))
        elif name in snapshot.arrays():
            array = snapshot.array(name)
            grid = Grid("array", "type", "shape", box=None, pad_edge=False)
            grid.add_row(name, str(array.dtype), " x ".join(f"{n:,}" for n in array.shape))
        elif name in snapshot.tables():
            schema = snapshot.table(name).schema
            grid = Grid("column", "type", "bytes a row", box=None, pad_edge=False)
            for column in schema:
                kind = f"{column}, key" if column.name in (schema.key or ()) else str(column)
                grid.add_row(column.name, kind, f"{column.row_size:,}" if column.kind.layout == FIXED else "varies")
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
    with opened(store, "r") as database:
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
    with opened(store, "r") as database:
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
    with errors():
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
