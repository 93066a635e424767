"""Every attack by name. The enemy's process imports the module of the one that it runs."""

from __future__ import annotations

import importlib

from tools.attack.attack import Attack

ATTACKS: dict[str, str] = {
    "yamux-resets": "yamux:RESETS",
    "yamux-empty-data": "yamux:EMPTY_DATA",
    "yamux-tiny-data": "yamux:TINY_DATA",
    "yamux-go-away": "yamux:GO_AWAY",
    "yamux-pings": "yamux:PINGS",
    "identify-push": "identify:PUSH",
    "identities": "identify:IDENTITIES",
    "rsa-keys": "handshake:RSA_KEYS",
    "handshakes": "handshake:HANDSHAKES",
    "quic-credit": "quic:CREDIT",
    "quic-resets": "quic:RESETS",
    "quic-connection-ids": "quic_packets:CONNECTION_IDS",
    "quic-retired-ids": "quic_packets:RETIRED",
    "quic-challenges": "quic_packets:CHALLENGES",
    "quic-gaps": "quic_packets:GAPS",
    "quic-acknowledgements": "quic_packets:ACKNOWLEDGEMENTS",
    "quic-migrations": "quic_packets:MIGRATIONS",
    "quic-storm": "quic_packets:STORM",
    "quic-empty-datagrams": "quic_packets:EMPTY",
    "websocket-fragments": "websocket:FRAGMENTS",
    "websocket-memory": "websocket:MEMORY",
    "half-open": "places:HALF_OPEN",
    "connections": "places:CONNECTIONS",
    "unread-memory": "places:UNREAD",
    "streams-held": "places:STREAMS",
    "content-idle": "content:IDLE",
    "content-manifests": "content:MANIFESTS",
    "ports-silent": "ports:SILENT",
    "ports-held": "ports:HELD",
    "ports-refused": "ports:REFUSED",
    "ports-service": "ports:SERVICE_OF_ENEMY",
    "relay-circuits": "relay:TAKEN",
    "topic-grafts": "topics:GRAFTS",
    "topic-ihaves": "topics:IHAVES",
    "topic-subscriptions": "topics:SUBSCRIPTIONS",
    "topic-empties": "topics:EMPTIES",
    "topic-toggles": "topics:TOGGLES",
    "topic-exchanges": "topics:EXCHANGES",
    "topic-copies": "topics:COPIES",
    "topic-iwants": "topics:IWANTS",
    "topic-prunes": "topics:PRUNES",
    "topic-forgeries": "topics:FORGERIES",
    "dht-find": "stores:FIND",
    "dht-values": "stores:VALUES",
    "dht-same-value": "stores:SAME_VALUE",
    "dht-same-providers": "stores:SAME_PROVIDERS",
    "dht-signed-values": "stores:SIGNED",
    "dht-held": "stores:HELD",
    "dht-providers": "stores:PROVIDERS",
    "crdt-hellos": "stores:DOCUMENT",
    "crdt-exchanges": "stores:TRICKLE",
    "crdt-ranges": "stores:RANGES",
    "bitswap-wants": "stores:WANTS",
    "content-holdings": "stores:HAS",
    "rpc-calls": "rpc.control:CALLS",
    "rpc-unread-answers": "rpc.control:UNREAD",
    "rpc-unknown-methods": "rpc.control:UNKNOWN",
    "rpc-hanging-calls": "rpc.control:HANGING",
    "rpc-blocking-calls": "rpc.control:BLOCKING",
    "rpc-cancels": "rpc.control:CANCELS",
    "rpc-metadata": "rpc.control:METADATA",
    "rpc-small-lists": "rpc.control:LISTS",
    "rpc-many-lists": "rpc.control:TOO_MANY_LISTS",
    "rpc-nesting": "rpc.control:NESTING",
    "rpc-sessions": "rpc.control:SESSIONS",
    "rpc-deadlines": "rpc.abuse:DEADLINES",
    "rpc-resumed": "rpc.abuse:RESUMED",
    "rpc-half-closed": "rpc.abuse:HALF_CLOSED",
    "rpc-unread-items": "rpc.data:UNREAD",
    "rpc-resets": "rpc.data:GIVEN_UP",
    "rpc-dripping-bodies": "rpc.data:DRIPPING",
    "rpc-half-messages": "rpc.data:HALF",
    "rpc-bombs": "rpc.data:BOMBS",
    "rpc-lists": "rpc.data:LISTS",
    "rpc-endless-requests": "rpc.data:ENDLESS",
    "rpc-leases": "rpc.lending:BORROWED",
    "rpc-heartbeats": "rpc.lending:BEATS",
    "rpc-references": "rpc.lending:REFERENCES",
    "rpc-shared-memory": "rpc.lending:OFFERS",
}
"""Name -> module in `tools.attack.attacks` and attribute."""

SHORT = (
    "yamux-resets",
    "identify-push",
    "quic-connection-ids",
    "quic-migrations",
    "websocket-fragments",
    "connections",
    "content-idle",
    "ports-silent",
    "ports-refused",
    "ports-service",
    "dht-values",
    "rpc-bombs",
    "rpc-many-lists",
    "rpc-leases",
)
"""One of each kind, for continuous integration."""


def load(name: str) -> Attack:
    """Import one attack. Raises `KeyError` for a name that is not in the table."""
    module, attribute = ATTACKS[name].split(":")
    attack = getattr(importlib.import_module(f"tools.attack.attacks.{module}"), attribute)
    if not isinstance(attack, Attack) or attack.name != name:
        raise TypeError(f"{ATTACKS[name]} is not the attack {name!r}")
    return attack
