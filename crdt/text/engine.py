"""Yjs, by pycrdt: what merges the items of one text or list.

It gets nothing but what :mod:`~lattica.crdt.text.sequence` has checked and written itself: bytes of
strangers could make it diverge, hang or end the process (yrs 0.28, measured).
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from lattica.crdt.entries.header import Kind
from lattica.crdt.text.update_v1 import ROOT, Update, decode_update
from lattica.nat.base.errors import LocalProtocolError


class Engine:
    """One Yjs document with one type in it.

    Args:
        kind: text or list.
        client: who edits here.

    Raises:
        LocalProtocolError: pycrdt is not installed.
    """

    def __init__(self, kind: Kind, client: int) -> None:
        try:
            pycrdt = importlib.import_module("pycrdt")
        except ImportError:
            raise LocalProtocolError(
                "texts and lists need pycrdt: pip install 'lattica-stack[text]'"
            ) from None
        self.client = client
        self._kind = kind
        self._doc: Any = pycrdt.Doc(client_id=client)
        self._type: Any = self._doc.get(
            ROOT, type=pycrdt.Text if kind == Kind.TEXT else pycrdt.Array
        )
        self._updates: list[bytes] = []
        self._is_local = False
        self._doc.observe(self._on_update)

    def _on_update(self, event: Any) -> None:
        if self._is_local:
            self._updates.append(event.update)

    def apply(self, updates: list[bytes]) -> None:
        """Merge updates, each after those that it builds on."""
        with self._doc.transaction():
            for update in updates:
                self._doc.apply_update(update)

    def copy(self, client: int) -> Engine:
        """Another one with the same in it, for edits of another client."""
        other = Engine(self._kind, client)
        other.apply([self._doc.get_update()])
        return other

    def text(self) -> str:
        """The whole text."""
        return str(self._type)

    def elements(self) -> list[bytes]:
        """The elements of the list."""
        # `to_py` and iteration are quadratic: 11,000 elements take 2 to 6 s, this 1 ms.
        with self._doc.transaction() as transaction:
            text: str = self._type.integrated.to_json(transaction._txn)
        return [bytes(each) for each in json.loads(text)]

    def insert(self, index: int, content: str | list[bytes]) -> Update:
        """Put in, and say what it was. Of a text the index is that of a byte of its UTF-8."""
        if isinstance(content, str):
            return self._edited(lambda: self._type.insert(index, content))
        return self._edited(lambda: self._type.__setitem__(slice(index, index), content))

    def delete(self, start: int, stop: int) -> Update:
        """Take out, and say what it was."""
        return self._edited(lambda: self._type.__delitem__(slice(start, stop)))

    def _edited(self, edit: Any) -> Update:
        self._updates.clear()
        self._is_local = True
        try:
            edit()
        finally:
            self._is_local = False
        (update,) = self._updates
        return decode_update(update)
