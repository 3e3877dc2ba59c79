"""What a store and a handle use, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmstore import format as fmt
from mmstore.kernels import compiled
from mmstore.keyspace.descriptor import IndexDescriptor
from mmstore.pages.freefile import load_entries
from mmstore.pages.readers import readers

if TYPE_CHECKING:
    from mmstore.database.database import Database

__all__ = ["stats"]


def stats(database: Database) -> dict[str, Any]:
    """A dict of numbers; sizes in bytes, pages in pages.

    ``pages`` accounts for the whole file: ``fixed + index + bulk + free + held`` (``index`` counts directory,
    node and bucket pages and the free list, ``bulk`` value runs and extents).
    """
    session = database.session
    with database.snapshot() as snapshot:
        root = snapshot.state.root
        names = snapshot.state.names()
        entries = load_entries(session, root)
        main = IndexDescriptor.unpack(root.main)
        catalog = IndexDescriptor.unpack(root.catalog)
        live = session.live
        store = session.store
        fixed = fmt.FIXED_SIZE // session.page_size
        free = sum(run.length for run in entries if not run.freed)
        held = sum(run.length for run in entries if run.freed)
        index = root.free.pages + root.free.delta_pages + main.pages + catalog.pages
        index += sum(entry.index.pages for _, entry in names)
        file_size = store.backend.size()
        log = session.current_log()
        return {
            "path": session.path,
            "compiled": compiled(),
            "page_size": session.page_size,
            "txn_id": root.txn,
            "durable_txn_id": live.get("durable"),
            "file_size": file_size,
            "mapped": store.size,
            "resident": store.resident(),
            "own_memory": session.workspace.memory + len(store.verified),
            "count": main.count,
            "keyspaces": sum(entry.kind == fmt.ENTRY_KEYSPACE for _, entry in names),
            "tables": sum(entry.kind == fmt.ENTRY_TABLE for _, entry in names),
            "pages": {
                "total": root.pages,
                "fixed": fixed,
                "index": index,
                "bulk": root.pages - fixed - free - held - index,
                "free": free,
                "held": held,
            },
            "log": {
                "size": 0 if log is None else log.ring,
                "used": 0 if log is None else root.log_position - live.get("log_start"),
            },
            "readers": len(readers(live, session.locks, session.pins.slot)),
            "pins": session.pins.alive,
            "poisoned": bool(live.get("poison")),
            **session.counts,
        }
