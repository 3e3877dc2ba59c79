"""How far a load got: a bookmark that is committed together with the rows before it.

It lies in the keyspace `mmstore.loads`, under a hash of what makes a load the same load: the inputs' paths and
sizes, the target and the options that decide which rows come of them.  Since rows and bookmark are one
transaction, a load that goes on behind its bookmark neither repeats a row nor leaves one out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import xxhash

from mmstore.errors import CorruptError
from mmstore.integrations.inputs.base import Mark

__all__ = ["KEYSPACE", "Bookmark", "Place", "identity"]

KEYSPACE: Final = "mmstore.loads"


@dataclass(frozen=True, slots=True)
class Place:
    """Before a row of one of the inputs."""

    input: int = 0
    """Number of the input."""
    mark: Mark = field(default_factory=Mark)
    """Where its batch begins."""
    skip: int = 0
    """Rows of that batch before it."""


@dataclass(frozen=True)
class Bookmark:
    """What has been committed of a load."""

    place: Place = field(default_factory=Place)
    rows: int = 0
    added: int = 0
    rejected: int = 0
    rejects: int = 0
    """Bytes of the file of rejected rows."""
    done: bool = False
    loose: tuple[str, ...] = ()
    """Columns of the table whose types were guessed, so that they may become nullable."""

    @classmethod
    def find(cls, store: Any, key: bytes) -> Bookmark | None:
        """The bookmark of the load `key` in a database, snapshot or transaction."""
        data = store.keyspace(KEYSPACE).get(key)
        if data is None:
            return None
        try:
            value = json.loads(data)
            place = value.pop("place")
            value.pop("load", None)
            return cls(Place(place["input"], Mark(**place["mark"]), place["skip"]),
                       **{**value, "loose": tuple(value["loose"])})  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"the bookmark {key!r} in keyspace {KEYSPACE!r} can't be read; delete it") from error

    def save(self, transaction: Any, key: bytes, load: dict[str, Any]) -> None:
        """Write it as part of `transaction`, with what is loaded in `load` for human eyes."""
        transaction.keyspace(KEYSPACE)[key] = json.dumps({**asdict(self), "load": load}).encode()


def identity(load: dict[str, Any]) -> bytes:
    """The key of a load's bookmark."""
    return xxhash.xxh3_128_hexdigest(json.dumps(load, sort_keys=True, default=str).encode()).encode()
