"""Commit: how a transaction's private pages become the newest root, by one of two paths.

Small (its operations fit the log)              Large (they do not; in every mode)

1. build; place pages on free runs              1. build; place pages on free runs
2. set ``committing``; append to the log        2. set ``committing``; checkpoint this root
3. sync the log (durable from here)             3. publish
4. publish

``committing`` holds the txn id itself: a commit is under way, or its writer died, while it is beyond the
published one.  Relaxed durability leaves step 3 of the small path out.  From step 2 on a commit is not left:
what strikes there is raised after the commit was finished (or cut off) as a successor would do it.
"""

from __future__ import annotations

from mmstore import format as fmt
from mmstore.disk.log import record_size
from mmstore.engine import checkpoint
from mmstore.engine.right import Right
from mmstore.engine.session import Session
from mmstore.engine.write import WriteState
from mmstore.engine.writer import Writer
from mmstore.errors import SyncError, TransactionError
from mmstore.pages.root import Root

__all__ = ["begin", "commit", "rollback"]


def begin(session: Session, writer: Writer, timeout: float) -> WriteState:
    """Start a transaction on the newest root; raises LockTimeout, TransactionError or SyncError."""
    right = Right(writer.mutex)
    limit = 0 if session.options.in_memory else session.options.log_ring // 4
    try:
        base = writer.begin(right, timeout)
        session.prepare_to_write()
        if session.disk_full:
            base = expire_grace(session, writer, base)
        return WriteState(session, base, base.txn + 1, limit, right)
    except BaseException:
        if right.held:
            session.discard()
        writer.end(right)
        raise


def rollback(writer: Writer, write: WriteState) -> None:
    """End a transaction without a trace, and not before what it was built on, and may have shown, is durable."""
    try:
        write.abort()
    except BaseException:
        write.session.discard()
        raise
    finally:
        writer.end(write.right)
    writer.see_through(write.base.txn)


def let_go(writer: Writer, write: WriteState) -> None:
    """After whatever struck: nobody must wait for this transaction any more.  One that has ended stays as it ended."""
    if write.right is not None:
        write.right.release()
    writer.end(None)


def commit(session: Session, writer: Writer, write: WriteState) -> int:
    """Commit and return the txn id (the base's where nothing was changed)."""
    if write.broken is not None:
        rollback(writer, write)
        raise TransactionError(
            f"a change in this transaction failed halfway ({write.broken!r}), so it was rolled back; repeat it, "
            "with a savepoint around what may fail"
        ) from write.broken
    if not write.changed:
        rollback(writer, write)
        return write.base.txn
    try:
        root = write.build()
        small = write.operations.complete  # not before: what was gathered may have outgrown the log
        if small:
            _make_room(session, writer, write)
        else:
            writer.wait_durable(write.base.txn)
        session.check_poison()
    except BaseException:  # nothing is in the log yet
        session.discard()
        writer.end(write.right)
        raise
    if session.options.in_memory:
        _commit_in_memory(writer, write, root)
    elif small:
        _commit_small(session, writer, write, root)
    else:
        _commit_large(session, writer, write, root)
    checkpoint.start_if_due(session, root)
    return root.txn


def _commit_small(session: Session, writer: Writer, write: WriteState, root: Root) -> None:
    try:
        try:
            session.live.set("committing", root.txn)
            root = append(session, writer, write, root)
            write.known_as(root)
            writer.built(root)
            if session.options.durability == "relaxed":
                writer.publish_relaxed()
        except BaseException:
            writer.abandon()
            raise
        finally:
            writer.end(write.right)
        if session.options.durability == "full":
            writer.wait_durable(root.txn)
    except SyncError:
        raise
    except BaseException:
        writer.end(write.right)
        writer.see_through(root.txn)
        raise


def append(session: Session, writer: Writer, write: WriteState, root: Root) -> Root:
    """Step 2: the record goes behind the base's; returns the root with the place behind it."""
    log = session.current_log()
    assert log is not None
    position, chain = log.append(
        root.txn,
        write.operations.payload(),
        previous=write.base.log_chain,
        position=write.base.log_position,
        synced=session.live.get("synced"),
        nonce=session.new_nonce() if writer.fresh else 0,
    )
    return Root(root.txn, root.pages, position, chain, *root[4:])


def _make_room(session: Session, writer: Writer, write: WriteState) -> None:
    """Make a log if there is none, and room in it: what the durable header covers is free."""
    log = session.current_log()
    if log is None:
        log = checkpoint.create_log(session)
    need = record_size(write.operations.size)
    if log.ring - (write.base.log_position - session.live.get("log_start")) < need:
        writer.wait_durable(write.base.txn)
        checkpoint.checkpoint(session)
    room = log.ring - (write.base.log_position - session.live.get("log_start"))
    assert room >= need, f"the log has {room} bytes of room after a checkpoint, {need} are needed"


def _commit_large(session: Session, writer: Writer, write: WriteState, root: Root) -> None:
    try:
        session.live.set("committing", root.txn)
        checkpoint.checkpoint(session, root)
        write.known_as(root)
        writer.publish_now(root)
        session.counts["large_commits"] += 1
    except BaseException:
        writer.abandon()
        raise
    finally:
        writer.end(write.right)


def expire_grace(session: Session, writer: Writer, base: Root) -> Root:
    """Publish the base again under an id so far on that no run has to wait for its grace any more.

    On a full disk that is what makes deleted data's pages usable; readers without a pin look anew.
    """
    writer.wait_durable(base.txn)
    root = base._replace(txn=base.txn + fmt.GRACE + 1)
    session.live.set("committing", root.txn)
    checkpoint.checkpoint(session, root)
    writer.publish_now(root)
    session.disk_full = False
    return root


def _commit_in_memory(writer: Writer, write: WriteState, root: Root) -> None:
    try:
        write.known_as(root)
        writer.publish_now(root)
    finally:
        writer.end(write.right)
