"""Proofs as JSON, for people and programs that read no msgpack: the same parts, all of them."""

from __future__ import annotations

import json
from typing import Any, Final

from lattica.crdt.base.canonical import Plain, decode, encode
from lattica.crdt.entries.header import Kind
from lattica.crdt.proofs.proof import MAX_PROOF, Proof, document_id, read_proof
from lattica.crdt.proofs.query import Scope
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError

_FORMAT: Final = "lattica-crdt-proof/1"
_KINDS: Final = {kind.name.lower(): kind for kind in Kind}
_SCOPES: Final = {scope.name.lower(): scope for scope in Scope}
_PARTS: Final = ("header", "signature", "payload", "certificate", "key")
"""Of an entry, as :attr:`Witness.parts` has them."""


def proof_to_json(proof: bytes, doc_id: bytes | str) -> str:
    """A proof as one line of JSON. Bytes are hexadecimal, and `item` is so encoded.

    Raises:
        RemoteProtocolError: it is none of that document.
        LocalProtocolError: `doc_id` is no ID of a document.
    """
    doc_id = document_id(doc_id)
    read = read_proof(proof, doc_id)
    return json.dumps(_fields(read, doc_id))


def _fields(proof: Proof, doc_id: bytes) -> dict[str, Any]:
    query = proof.query
    fields: dict[str, Any] = {
        "format": _FORMAT,
        "doc_id": doc_id.hex(),
        "query": {
            "kind": query.kind.name.lower(),
            "name": query.name,
            "scope": query.scope.name.lower(),
            "item": encode(query.item).hex(),
        },
        "root": proof.root.hex(),
        "tree": proof.tree.hex(),
        "entries": [
            {name: part.hex() for name, part in zip(_PARTS, each.parts, strict=False)}
            for each in proof.witnesses
        ],
        "statement": None,
    }
    if proof.statement is not None:
        fields["statement"] = {
            "statement": proof.statement.statement.encode().hex(),
            "author": proof.statement.author.hex(),
            "signature": proof.statement.signature.hex(),
            "certificate": proof.statement.certificate.encode().hex(),
        }
    return fields


def proof_from_json(text: str) -> tuple[bytes, bytes]:
    """A proof, and the ID of the document that it says to be of. Nothing of it is verified.

    Raises:
        RemoteProtocolError: it is none.
    """
    if len(text) > 3 * MAX_PROOF:
        raise RemoteProtocolError("a proof that is too long")
    try:
        fields = json.loads(text)
        if fields["format"] != _FORMAT:
            raise ValueError("another format")
        asked, signed = fields["query"], fields["statement"]
        statement: Plain = None
        if signed is not None:
            names = ("statement", "author", "signature", "certificate")
            statement = [_bytes(signed[name]) for name in names]
        plain: list[Plain] = [
            1,
            [
                int(_KINDS[asked["kind"]]),
                asked["name"],
                int(_SCOPES[asked["scope"]]),
                decode(_bytes(asked["item"]), MAX_PROOF),
            ],
            _bytes(fields["root"]),
            _bytes(fields["tree"]),
            [
                # The last of them is there for entries of sealed documents.
                [_bytes(e[name]) for name in _PARTS if name in e or name != _PARTS[-1]]
                for e in fields["entries"]
            ],
            statement,
        ]
        return encode(plain), _bytes(fields["doc_id"])
    except (ValueError, KeyError, TypeError, RecursionError, LocalProtocolError) as error:
        raise RemoteProtocolError(f"not a proof in JSON: {error!r:.200}") from None


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError("bytes are hexadecimal texts")
    return bytes.fromhex(text)
