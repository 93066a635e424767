"""What a proof says to somebody who has a root and nothing else of the document.

It says what the state that the root names has at a place. Whose root it is, and whether it is the
newest, it cannot say: a root has to come from somebody whom the reader believes, or from a replica
of his own.
"""

from __future__ import annotations

from lattica.crdt.tree.places import Standing, decode_standing, register_key, register_range
from lattica.crdt.tree.search_tree import verify_range
from lattica.nat.base.errors import RemoteProtocolError


def verify_register(root: bytes, proof: bytes, name: str) -> Standing | None:
    """What a register holds; None if it was never written.

    Raises:
        RemoteProtocolError: the proof is not that of this root and name.
    """
    key = register_key(name)
    value = verify_range(root, proof, key, key).get(key)
    return None if value is None else decode_standing(value)


def verify_registers(root: bytes, proof: bytes, prefix: str) -> dict[str, Standing]:
    """All registers whose names begin with a prefix, in order.

    Raises:
        RemoteProtocolError: the proof is not that of this root and prefix.
    """
    found = verify_range(root, proof, *register_range(prefix))
    try:
        return {key[1:].decode(): decode_standing(value) for key, value in found.items()}
    except UnicodeDecodeError:
        raise RemoteProtocolError("a register whose name is no text") from None
