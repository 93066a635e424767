"""An ordered search tree whose shape follows from its keys alone (a Merkle search tree).

A key's layer comes from its hash: a quarter of the keys are above layer 0, a quarter of these above
layer 1, and so on. The keys of the highest layer that there is make the root node, those between
two of them a subtree of the same kind. So the same items are the same tree, in whatever order
they came, and one hash names all of them.

Source: A. Auvolat and F. Taïani, "Merkle Search Trees" (2019); ATProto's repository format, whose
layers these are (there, empty layers have nodes; here they have none).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, TypeAlias

from lattica.crdt.base.turns import Turns, finish
from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError

CONTEXT: Final = b"lattica/crdt/tree/v1\0"
HASH_BYTES: Final = 32
MAX_PROOF: Final = 4 * 1024 * 1024
"""Bytes of a proof that is read."""
_TURN: Final = 1024
"""Keys of a turn."""
_MAX_DEPTH: Final = 129
"""A layer is from 0 to 128, and each is below its parent's."""


_Entry: TypeAlias = tuple[bytes, bytes, bytes | None]
"""Key, value, and the hash of the subtree after it."""


def layer_of(key: bytes) -> int:
    """Half the number of leading zero bits of the key's SHA-256."""
    digest = hashlib.sha256(key).digest()
    if digest[0] >= 0x40:  # of three keys in four
        return 0
    return (256 - int.from_bytes(digest, "big").bit_length()) // 2


def node_hash(node: bytes) -> bytes:
    """SHA-256 of `CONTEXT` and a node's bytes."""
    return hashlib.sha256(CONTEXT + node).digest()


class SearchTree:
    """The tree of some items, by key.

    A node is `left`, then `key value right` for each of its keys: the hashes of the subtrees before
    the first key and after each (1 and 32 bytes, or 0 where there is none), keys and values with
    their lengths in front (4 bytes, big-endian). The tree of nothing is one node with no keys.

    Making it hashes every key and node: some 3 µs an item.
    """

    def __init__(self, items: Mapping[bytes, bytes], *, is_later: bool = False) -> None:
        self._nodes: dict[bytes, bytes] = {}
        self.root = b""
        """The hash that names all items."""
        if not is_later:
            finish(self._make(items))

    @classmethod
    def making(cls, items: Mapping[bytes, bytes]) -> Turns[SearchTree]:
        """The same in turns."""
        tree = cls({}, is_later=True)
        yield from tree._make(items)
        return tree

    def _make(self, items: Mapping[bytes, bytes]) -> Turns[None]:
        """Add the nodes in the order of their last keys: each key ends those that are open below
        its layer.
        """
        keys = sorted(items)
        yield
        layers: list[int] = []
        """Of the open nodes, from the highest down; beside them what they are so far, up to the
        value of their last key."""
        nodes: list[list[bytes]] = []
        for start in range(0, len(keys), _TURN):
            for key in keys[start : start + _TURN]:
                layer, subtree = layer_of(key), None
                while layers and layers[-1] < layer:
                    layers.pop()
                    subtree = self._add(nodes.pop(), subtree)
                if not layers or layers[-1] != layer:
                    layers.append(layer)
                    nodes.append([])
                nodes[-1] += (_pack_hash(subtree), _pack(key), _pack(items[key]))
            yield
        root = None
        while nodes:
            root = self._add(nodes.pop(), root)
        self.root = root or self._add([], None)

    def _add(self, begin: list[bytes], right: bytes | None) -> bytes:
        """Add the node that begins so, with the subtree after its last key."""
        node = b"".join(begin) + _pack_hash(right)
        digest = node_hash(node)
        self._nodes[digest] = node
        return digest

    def prove(self, low: bytes, high: bytes) -> bytes:
        """The proof of which items have a key from `low` up to `high`, both included: the nodes
        on the way to them.

        Raises:
            LocalProtocolError: it has more than `MAX_PROOF` bytes; ask for less at once.
        """
        nodes: list[bytes] = []
        self._collect(self.root, low, high, nodes)
        if sum(map(len, nodes)) > MAX_PROOF - 16 * len(nodes):
            raise LocalProtocolError(f"a proof of more than {MAX_PROOF} bytes")
        return encode_proof(nodes)

    def _collect(self, digest: bytes, low: bytes, high: bytes, nodes: list[bytes]) -> None:
        node = self._nodes[digest]
        nodes.append(node)
        left, entries = _read(node)
        for child, after, before in _children(left, entries):
            if child is not None and _overlaps(after, before, low, high):
                self._collect(child, low, high, nodes)


def encode_proof(nodes: list[bytes]) -> bytes:
    """Nodes, each with its length in front (4 bytes, big-endian)."""
    return b"".join(map(_pack, nodes))


def _pack(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _pack_hash(digest: bytes | None) -> bytes:
    return b"\0" if digest is None else b"\1" + digest


def verify_range(root: bytes, proof: bytes, low: bytes, high: bytes) -> dict[bytes, bytes]:
    """The items of the state with this root whose keys are from `low` up to `high`, both included.
    One that is not among them is not in the state.

    What is proved is what the root names; whose root it is has to be known otherwise.

    Raises:
        RemoteProtocolError: the proof is not that of this root and range, or has more in it.
    """
    nodes = _split(proof)
    found: dict[bytes, bytes] = {}
    left = _walk(root, nodes, low, high, (None, None, _MAX_DEPTH), found)
    if left:
        raise RemoteProtocolError("a proof with more in it than it needs")
    return found


class _Reader:
    """Reads what nodes and proofs consist of; raises RemoteProtocolError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def __bool__(self) -> bool:
        return self._place < len(self._data)

    def _take(self, size: int) -> bytes:
        end = self._place + size
        if end > len(self._data):
            raise RemoteProtocolError("a proof that is cut short")
        piece = self._data[self._place : end]
        self._place = end
        return piece

    def chunk(self) -> bytes:
        return self._take(int.from_bytes(self._take(4), "big"))

    def digest(self) -> bytes | None:
        kind = self._take(1)
        if kind == b"\0":
            return None
        if kind != b"\1":
            raise RemoteProtocolError("a node of a tree that is none")
        return self._take(HASH_BYTES)


def _split(proof: bytes) -> dict[bytes, bytes]:
    if len(proof) > MAX_PROOF:
        raise RemoteProtocolError(f"a proof of {len(proof)} bytes, where {MAX_PROOF} are allowed")
    reader, nodes = _Reader(proof), {}
    while reader:
        node = reader.chunk()
        digest = node_hash(node)
        if digest in nodes:
            raise RemoteProtocolError("a proof with a node twice")
        nodes[digest] = node
    return nodes


def _walk(
    digest: bytes,
    nodes: dict[bytes, bytes],
    low: bytes,
    high: bytes,
    place: tuple[bytes | None, bytes | None, int],
    found: dict[bytes, bytes],
) -> dict[bytes, bytes]:
    """Read a subtree, whose keys are between two others and below a layer. What is left over."""
    node = nodes.pop(digest, None)
    if node is None:
        raise RemoteProtocolError("a proof without a node that it needs")
    after, before, above = place
    left, entries = _read(node)
    if not entries and (above != _MAX_DEPTH or left is not None):
        raise RemoteProtocolError("a node without keys")
    layer = layer_of(entries[0][0]) if entries else 0
    previous = after
    for key, value, _ in entries:
        is_between = (previous is None or previous < key) and (before is None or key < before)
        if not is_between or layer_of(key) != layer or layer >= above:
            raise RemoteProtocolError("a key that is not in its place")
        if low <= key <= high:
            found[key] = value
        previous = key
    for child, child_after, child_before in _children(left, entries):
        lower = after if child_after is None else child_after
        upper = before if child_before is None else child_before
        if child is not None and _overlaps(child_after, child_before, low, high):
            _walk(child, nodes, low, high, (lower, upper, layer), found)
    return nodes


def _overlaps(after: bytes | None, before: bytes | None, low: bytes, high: bytes) -> bool:
    """Whether a key between two others (None: no bound) can be from `low` to `high`."""
    return (after is None or after < high) and (before is None or low < before)


def _children(
    left: bytes | None, entries: list[_Entry]
) -> list[tuple[bytes | None, bytes | None, bytes | None]]:
    """Subtrees, and the keys of the node that they are after and before."""
    keys = [entry[0] for entry in entries]
    subtrees = [left, *(entry[2] for entry in entries)]
    return list(zip(subtrees, [None, *keys], [*keys, None], strict=True))


def _read(node: bytes) -> tuple[bytes | None, list[_Entry]]:
    reader = _Reader(node)
    left = reader.digest()
    entries: list[_Entry] = []
    while reader:
        entries.append((reader.chunk(), reader.chunk(), reader.digest()))
    return left, entries
