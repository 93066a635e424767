"""A document at one store, and what it does, by idea: what is written, who may, what it comes to,
what is proved of it, and what peers are given.
"""

from lattica.crdt.document.document import Document
from lattica.crdt.document.governance.owners import Owner, OwnerAppointment
from lattica.crdt.document.governance.read_keys import SealedKey
from lattica.crdt.document.governance.rights import Right
from lattica.crdt.document.listing import LogEntry
from lattica.crdt.document.received import Received

__all__ = [
    "Document",
    "LogEntry",
    "Owner",
    "OwnerAppointment",
    "Received",
    "Right",
    "SealedKey",
]
