"""Why nothing of a document's history goes."""

from __future__ import annotations

from typing import Final

from lattica.crdt.document.governance.writer import Writer
from lattica.crdt.document.resolved import Resolved
from lattica.crdt.entries.header import Kind

_NOTHING: Final = "nothing is both so old and not needed any more"


def why_not_pruned(writer: Writer, resolved: Resolved) -> str:
    """As :meth:`Document.why_not_pruned`."""
    replica = writer.replica
    if replica.log.rights is None:
        return _NOTHING
    if not resolved.reads_all:
        return "this peer cannot read all of it, so it is not known here what is still needed"
    if writer.is_owner:
        return _NOTHING
    if writer.rights.is_owner(writer.identity):
        return (
            "this owner has contradicted itself, so it calls nothing final until an owner is "
            "appointed in its place (`lattica crdt appoint`)"
        )
    about_rights = replica.database.entries_about_rights()
    if not any(each.header.kind == Kind.FINAL for each in about_rights):
        return "no owner has called anything of it final: an owner prunes first"
    return "nothing that owners have called final is both so old and not needed any more"
