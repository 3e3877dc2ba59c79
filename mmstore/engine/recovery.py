"""Recovery and takeover: how the next writer finds the newest committed state (I3, I7, I8).

recovery (first in, alone, after no clean close)     settle (whoever finds ``committing`` beyond ``txn``)

1. sync both files before believing them             1. sync both files
2. newest whole header; replay the valid records     2. publish a whole header newer than the published root
3. checkpoint under an id that nobody used           3. replay and publish the valid records behind it
4. the log is done with                              4. clear ``committing``

Recovery changes no page that the durable header refers to, so it may itself be cut short and repeated.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmstore import format as fmt
from mmstore.catalog.entry import Entry
from mmstore.disk.log import Log, Record
from mmstore.engine import checkpoint
from mmstore.engine.operations import Operation, decode
from mmstore.engine.publish import publish
from mmstore.engine.session import Session
from mmstore.engine.write import WriteState
from mmstore.errors import CorruptError
from mmstore.pages.root import Header, Root, newest_header, read_headers

__all__ = ["apply", "records_behind", "recover", "replay", "settle"]


def recover(session: Session, at: int, header: Header) -> Root:
    """Bring a store that was not closed cleanly to its newest committed state, durably; returns the root.

    The caller is alone and has rebuilt the live page on ``header``'s root.
    """
    session.log = log = session.open_log(header.log_id)
    session.sync(session.store.sync_all)
    session.sync(log.sync)
    base = header.root
    write = WriteState(session, base, base.txn + fmt.RECOVERY_SKIP, limit=0)
    last, position, chain = base.txn, base.log_position, base.log_chain
    for record in records_behind(log, base):
        replay(write, record)
        last, position, chain = record.txn, record.position, record.chain
    if last == base.txn:
        write.abort()
        root = base._replace(txn=write.txn)
    else:
        root = write.build()._replace(log_position=position, log_chain=chain)
    session.live.set("log_id", 0)
    checkpoint.sync_data(session)
    checkpoint.place_headers(session, 1 - at, Header(session.identity.uuid, 0, root))
    retire_log(session, log)
    return root


def retire_log(session: Session, log: Log) -> None:
    """Remove a log that no header needs any more."""
    if not session.store.private:
        for path in session.log_paths():
            log.unlink_if_ours(session.fs, path)
    session.drop_log()


def records_behind(log: Log, root: Root) -> Iterator[Record]:
    """The valid records that continue ``root``; CorruptError when one is missing that was known synced."""
    return log.replay(root.log_position, root.log_chain, root.txn)


def replay(write: WriteState, record: Record) -> None:
    """Do again what a record says.  Raises `CorruptError` where it makes no sense."""
    for operation in decode(record.payload):
        apply(write, operation)


def apply(write: WriteState, operation: Operation) -> None:
    """Replay one operation of the log."""
    code, name, key, value = operation
    if code == fmt.OP_PUT:
        write.put(name, key, value)
    elif code == fmt.OP_DELETE:
        write.delete(name, key)
    elif code == fmt.OP_CLEAR:
        write.clear(name)
    elif code == fmt.OP_CREATE:
        write.create(name, Entry.unpack(value, write.session.page_size, 0))
    elif write.entry(name) is None:
        raise CorruptError(f"the log names {name!r}, which the catalog does not have; restore a backup")
    elif code == fmt.OP_DROP:
        write.drop(name)
    else:
        write.replay_table(operation)


def settle(session: Session) -> None:
    """Finish, or cut off, the commit of a writer that died; the caller holds the writer lock."""
    live = session.live
    session.counts["settled"] += 1
    if session.options.in_memory:
        live.set("committing", live.txn)
        return
    log = session.current_log()
    session.sync(session.store.sync_all)
    if log is not None:
        session.sync(log.sync)
    with session.hold_checkpoint():
        at, header = newest_header(read_headers(session.pread, session.identity.uuid), session.path)
        if header.root.txn > live.txn:
            checkpoint.place_header(session, 1 - at, header)
            session.follow(header.root)
            checkpoint.finish(session, header.root, at)
            publish(session, header.root)
    if log is not None:
        base = session.published()
        for record in records_behind(log, base):
            write = WriteState(session, base, record.txn, limit=0)
            replay(write, record)
            base = write.build()._replace(log_position=record.position, log_chain=record.chain)
            publish(session, base)
        live.set("synced", live.txn)
    live.set("committing", live.txn)
