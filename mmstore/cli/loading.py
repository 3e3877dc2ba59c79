"""`mmstore load` and `mmstore export`: their options, one line or JSON about what was done, exit codes.

Exit codes of both: 0 all is done; 1 an error, and the store is as the last commit had it; 2 wrong usage;
3 loaded, but some rows were left out (`--on-error skip`); 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from mmstore.cli.common import STORE, bar, errors
from mmstore.errors import Error
from mmstore.integrations import export as exporting
from mmstore.integrations import load as loading
from mmstore.integrations.inputs.detect import FORMATS
from mmstore.integrations.writers import FORMATS as OUT_FORMATS

__all__ = ["SKIPPED", "export", "load"]

SKIPPED = 3
INTERRUPTED = 130


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@STORE
@click.option("--table", "-t", metavar="T", help="Load into the table T.")
@click.option("--keyspace", "-k", metavar="K", help="Load into the keyspace K; the store's own with --key alone.")
@click.option("--key", metavar="COL[,COL]", help="The columns that identify a table's rows; the column of the keys.")
@click.option("--value", metavar="COL", help="The column that holds the values; without it each row is kept as JSON.")
@click.option("--value-format", type=click.Choice(["json", "raw"]), help="Values as JSON or as the bytes they are.")
@click.option(
    "--schema", "-s", multiple=True, metavar="COL=TYPE,...",
    help="Types, as i4, f4, utf8, date32, decimal128(15,2); i4? may be missing.",
)  # fmt: skip
@click.option("--columns", "-c", metavar="COL,...", help="Load these columns only.")
@click.option("--where", "-w", multiple=True, metavar="COND", help='Load such rows only: "delay>=30", "day in 1,2".')
@click.option("--append", is_flag=True, help="Add to what the table or keyspace holds.")
@click.option("--replace", is_flag=True, help="Drop what it holds.")
@click.option("--on-conflict", type=click.Choice(["error", "replace", "ignore"]), help="For keys that are there.")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", help="For rows that don't fit.")
@click.option("--rejects", type=click.Path(dir_okay=False), metavar="FILE", help="Write skipped rows to FILE, as JSON.")
@click.option("--commit-every", type=click.IntRange(1), metavar="N", help="Commit after N rows, to be resumable.")
@click.option("--resume", is_flag=True, help="Go on behind the last commit of the same load.")
@click.option("--format", "-f", type=click.Choice(FORMATS), help="The inputs' format, if their names don't tell it.")
@click.option("--delimiter", "-d", metavar="CHAR", help="Between the values of a CSV.")
@click.option("--names", metavar="COL,...", help="The columns of a CSV without a header.")
@click.option("--encoding", default="utf-8", show_default=True, help="Of a CSV.")
@click.option("--from", "part", metavar="NAME", help="The table, keyspace or database within the input.")
@click.option("--unpickle", is_flag=True, help="Read a shelve; runs whatever code is in it.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar, and nothing on success.")
@click.option("--json", "as_json", is_flag=True, help="What was done, or went wrong, as a JSON object.")
def load(
    inputs: tuple[str, ...], store: str, table: str | None, keyspace: str | None, key: str | None,
    schema: tuple[str, ...], columns: str | None, where: tuple[str, ...], delimiter: str | None, names: str | None,
    quiet: bool, as_json: bool, **others: Any,
) -> None:  # fmt: skip
    """Load files in one atomic commit.

    CSV, TSV, JSON lines (also packed: .gz, .zst, .bz2, .zip), Parquet, Arrow IPC, Feather, npy, npz, another .mms,
    LMDB, dbm, or - for standard input; globs, too. Exit code 3 means that rows were skipped.
    """
    records = key is None and table is None and keyspace is None
    if records:
        raise click.UsageError("name a --table, a --keyspace, or with --key the store's own keyspace")
    if delimiter == "\\t":
        delimiter = "\t"
    keys = _split(key)
    with _reported(as_json), bar(quiet or as_json) as progress:
        done = loading.load(
            inputs,
            store,
            table=table,
            keyspace=keyspace if table is not None or keyspace is not None else "",
            key=keys[0] if keys is not None and len(keys) == 1 else keys,
            schema=dict(_types(schema)) or None,
            columns=_split(columns),
            where=list(where),
            delimiter=delimiter,
            names=_split(names),
            progress=progress,
            **others,
        )
    if as_json:
        click.echo(json.dumps(asdict(done)))
    elif not quiet:
        where_to = (
            f"table {table}"
            if table is not None
            else f"keyspace {keyspace}"
            if keyspace
            else "the store's own keyspace"
        )
        more = f" ({done.before:,} were there from before)" if done.before else ""
        left = f", {done.rejected:,} rows skipped" if done.rejected else ""
        click.echo(f"{done.rows:,} rows into {where_to} in {done.seconds:.2f} s{more}{left}", err=True)
    if done.rejected:
        raise click.exceptions.Exit(SKIPPED)


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _types(items: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(column, type) of each COL=TYPE, several of them between commas that aren't inside brackets."""
    for item in items:
        depth, part = 0, ""
        for letter in f"{item},":
            depth += (letter in "([") - (letter in ")]")
            if letter != "," or depth:
                part += letter
                continue
            name, equals, kind = part.partition("=")
            if not equals or not name.strip() or not kind.strip():
                raise click.BadParameter(f"expected COL=TYPE, found {part!r}", param_hint="--schema")
            yield name.strip(), kind.strip()
            part = ""


@contextlib.contextmanager
def _reported(as_json: bool) -> Iterator[None]:
    """Errors as one line on standard error, with `as_json` as an object on standard output, too."""
    try:
        with errors():
            yield
    except click.ClickException as error:
        if as_json:
            click.echo(json.dumps({"error": _facts(error)}))
        raise
    except KeyboardInterrupt:
        click.echo("interrupted; the store is as the last commit had it", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def _facts(error: click.ClickException) -> dict[str, Any]:
    cause = error.__cause__
    facts: dict[str, Any] = {"type": type(cause).__name__ if cause is not None else "Error", "message": error.message}
    if isinstance(cause, Error) and hasattr(cause, "facts"):
        facts |= cause.facts()
    return facts


@click.command()
@STORE
@click.argument("name")
@click.argument("out", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--format", "-f", type=click.Choice(OUT_FORMATS), help="If the name of OUT doesn't tell it.")
@click.option("--columns", "-c", metavar="COL,...", help="Write these columns only.")
@click.option("--where", "-w", multiple=True, metavar="COND", help='Write such rows only: "delay>=30", "day in 1,2".')
@click.option("--hex", "as_hex", is_flag=True, help="Keys and values as hexadecimal digits, in CSV and JSON lines.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar, and nothing on success.")
@click.option("--json", "as_json", is_flag=True, help="What was done, or went wrong, as a JSON object.")
def export(
    store: str, name: str, out: str, format: str | None, columns: str | None, where: tuple[str, ...], as_hex: bool,
    quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the table or keyspace NAME (- is the store's own keyspace) to OUT.

    Parquet, Arrow IPC (.arrow, .feather; .arrows is the stream), CSV, TSV or JSON lines, the last three also packed
    (.csv.gz); - is standard output.
    """
    with _reported(as_json and out != "-"), bar(quiet or as_json or out == "-", sized=False) as progress:
        done = exporting.export(
            store, "" if name == "-" else name, out, format=format, columns=_split(columns), where=list(where),
            hex=as_hex, progress=None if progress is None else lambda rows, total: progress(rows, total, rows),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(asdict(done)), err=out == "-")
    elif not quiet:
        click.echo(f"{done.rows:,} rows into {out} as {done.format} in {done.seconds:.2f} s", err=True)
