"""Loading files into a store: streaming, with bounded memory, in one atomic commit or in many.

    inputs  > read ahead in a thread >  batches  >  table or keyspace  > commit, with a bookmark where there are many

All that can be loaded is in ``inputs``.  Without `commit_every` a load is one transaction: an error leaves the
store as it was.  With it, a load is a row of transactions, and `resume` goes on behind the last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, Final, TypeAlias

from mmstore.database import Database
from mmstore.database import open as open_store
from mmstore.integrations.inputs.base import require
from mmstore.integrations.inputs.detect import Reading, expand
from mmstore.integrations.job import Job, Loaded, Progress
from mmstore.integrations.keyspaces import KeyspaceTarget
from mmstore.integrations.resume import identity
from mmstore.integrations.tables import TableTarget
from mmstore.integrations.types import named_columns
from mmstore.integrations.where import Condition, conditions

__all__ = ["Loaded", "load"]

Path: TypeAlias = "str | os.PathLike[str]"

EVERY: Final = 1_000_000
"""Rows of a commit when a load may be resumed and no other number was given."""


def load(
    sources: Path | BinaryIO | Sequence[Path | BinaryIO],
    store: Database | Path,
    *,
    table: str | None = None,
    keyspace: str | None = None,
    key: str | Sequence[str] | None = None,
    value: str | None = None,
    value_format: str | None = None,
    schema: Mapping[str, Any] | None = None,
    columns: Sequence[str] | None = None,
    where: str | Condition | Sequence[str | Condition] | None = None,
    append: bool = False,
    replace: bool = False,
    on_conflict: str | None = None,
    on_error: str = "raise",
    rejects: Path | None = None,
    commit_every: int | None = None,
    resume: bool = False,
    format: str | None = None,
    delimiter: str | None = None,
    names: Sequence[str] | None = None,
    encoding: str = "utf-8",
    part: str | None = None,
    unpickle: bool = False,
    progress: Progress | None = None,
) -> Loaded:
    """Load files into a table or a keyspace.

    `sources`: paths, globs, "-" for standard input, binary files.  `format` where a name doesn't tell it.
    `table`: its name, and `key` the column or columns that identify its rows.  `schema` names types that aren't to be
    taken from the input (`{"delay": "i4?"}`: the question mark for nullable), `columns` the columns wanted.
    `keyspace`: its name, "" for the store's own; `key` and `value` are columns.  Without `value` each row is kept as
    JSON.  `value_format`: "json" or "raw".
    `where`: conditions such as "delay >= 30" that choose rows.
    `replace` drops what the name held; `append` adds to it.  Without either, a name that holds something is an error.
    `on_conflict`: "error" (tables), "replace" (keyspaces) or "ignore", for keys that are there already.
    `on_error`: "raise", or "skip" to leave out rows that don't fit; `rejects` names a file for them.
    `commit_every`: commit after so many rows; `resume`: go on behind the last commit of the same load, if any.
    `delimiter`, `names` (columns of text without a header) and `encoding` go with CSV; `part` names a table, keyspace
    or database within the input; `unpickle` allows a shelve, which runs code.
    `progress(bytes read, bytes in all or None, rows)` is called after each batch.

    Raises SchemaError (with file, line, column and value where a row is to blame), and leaves the store as the last
    commit had it: without `commit_every`, as it was.
    """
    _check(table, keyspace, key, value, value_format, schema, replace, append, on_conflict, on_error, rejects,
           commit_every)  # fmt: skip
    require("pyarrow", "arrow")
    how = Reading(
        format,
        delimiter,
        None if names is None else tuple(names),
        encoding,
        part,
        unpickle,
        value_format == "raw",
        table,
    )
    how.wanted()
    chosen = conditions(where)
    places = [place for source in _listed(sources) for place in expand(source)]
    if not places:
        raise ValueError("expected at least one input")
    keys = (key,) if isinstance(key, str) else tuple(key or ())
    named = named_columns(schema)
    common: dict[str, Any] = {"columns": columns, "where": chosen, "on_conflict": on_conflict}
    target: TableTarget | KeyspaceTarget
    if table is not None:
        target = TableTarget(table, key=keys, named=named, **common)
    else:
        assert keyspace is not None
        target = KeyspaceTarget(
            keyspace, key=keys[0] if keys else None, value=value, value_format=value_format, **common
        )
    with ExitStack() as stack:
        database = store if isinstance(store, Database) else stack.enter_context(open_store(store))
        job = Job(database, places, how, target, skip=on_error == "skip", rejects=rejects, progress=progress)
        if commit_every is not None or resume:
            what = {
                "inputs": [_known(place) for place in places], "table": table, "keyspace": keyspace, "key": keys,
                "value": value, "value_format": value_format, "columns": list(columns or ()), "where": chosen,
                "schema": {name: str(kind) for name, kind in (schema or {}).items()}, "on_error": on_error,
                "format": format, "delimiter": delimiter, "names": names, "encoding": encoding, "part": part,
                "on_conflict": on_conflict,
            }  # fmt: skip
            job.bookmarked(what, identity(what), commit_every or EVERY)
        return job.run(append=append, replace=replace, resume=resume)


def _check(
    table: str | None, keyspace: str | None, key: Any, value: Any, value_format: str | None, schema: Any, replace: bool,
    append: bool, on_conflict: str | None, on_error: str, rejects: Any, commit_every: int | None,
) -> None:  # fmt: skip
    """Raise ValueError for arguments that contradict each other."""
    if (table is None) == (keyspace is None):
        raise ValueError("expected either a table or a keyspace to load into")
    if table is not None and (value is not None or value_format is not None):
        raise ValueError("value and value_format go with a keyspace, not with a table")
    if keyspace is not None and key is not None and not isinstance(key, str):
        raise ValueError(f"expected one column for the keys of a keyspace, found {key!r}")
    if keyspace is not None and schema is not None:
        raise ValueError("a keyspace holds texts or JSON; a schema goes with a table")
    if replace and append:
        raise ValueError("expected replace or append, not both")
    if value_format not in (None, "json", "raw"):
        raise ValueError(f"expected value_format 'json' or 'raw', found {value_format!r}")
    if on_conflict not in (None, "error", "replace", "ignore"):
        raise ValueError(f"expected on_conflict 'error', 'replace' or 'ignore', found {on_conflict!r}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"expected on_error 'raise' or 'skip', found {on_error!r}")
    if rejects is not None and on_error != "skip":
        raise ValueError("a file for rejected rows goes with on_error='skip'")
    if commit_every is not None and commit_every < 1:
        raise ValueError(f"expected commit_every of at least 1 row, found {commit_every}")


def _listed(sources: Any) -> list[Any]:
    return list(sources) if isinstance(sources, Sequence) and not isinstance(sources, str) else [sources]


def _known(place: Any) -> list[Any]:
    """What tells an input from others: its absolute path and size."""
    if not isinstance(place, str | os.PathLike) or not os.path.exists(place):
        raise ValueError(f"a load that commits in between can be resumed only from files, found {place!r}")
    return [os.path.abspath(place), os.path.getsize(place)]
