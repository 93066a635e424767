"""What a door keeps on disk beside content: small files, and what names led to."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from lattica.content.disk import replacing, storage_error
from lattica.content.errors import TicketError
from lattica.content.manifest.cid import Cid
from lattica.content.names.record import NameRecord, NameRef, NameTarget

logger = logging.getLogger(__name__)


def read_small(path: Path) -> bytes | None:
    """The bytes of a file; None: it cannot be read. Blocking."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def keep_small(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all; blocking. Raises :class:`StorageError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_bytes(data)
    except OSError as error:
        raise storage_error(error, path) from None


class RememberedNames:
    """The records that were believed last, in a file: for times when nobody can be asked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, NameRecord] = {}
        self._lock = threading.Lock()

    def load(self) -> None:
        """Blocking. A damaged file is as none."""
        try:
            fields = json.loads(self._path.read_bytes())
            for text, (cid, description, sequence, expires) in fields.items():
                ref = NameRef.parse(text)
                target = NameTarget(Cid.parse(cid), Cid.parse(description) if description else None)
                self._records[text] = NameRecord(
                    ref.peer_id, ref.name, target, int(sequence), float(expires)
                )
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError, TicketError) as error:
            logger.warning("%s is not understood, and left: %s", self._path, error)

    def get(self, ref: NameRef) -> NameRecord | None:
        """What a name led to."""
        return self._records.get(str(ref))

    def put(self, record: NameRecord) -> None:
        """Blocking, in several threads at once; raises :class:`StorageError`."""
        key = str(NameRef(record.owner, record.name))
        with self._lock:
            known = self._records.get(key)
            if known is not None and known.sequence == record.sequence:
                return
            self._records[key] = record
            fields = {
                text: (
                    str(r.target.cid),
                    str(r.target.description) if r.target.description else None,
                    r.sequence,
                    r.expires,
                )
                for text, r in self._records.items()
            }
            keep_small(self._path, json.dumps(fields, indent=1).encode())
