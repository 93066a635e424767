"""Every fuzz target by name. A decoder of ours that is missing here is a bug.

Modules are imported when a target is loaded, so that a coverage-guided engine can instrument
them first.
"""

from __future__ import annotations

import importlib

from tools.fuzz.target import Target

TARGETS: dict[str, str] = {
    "uvarint": "ground:UVARINT",
    "length-prefixed": "ground:LENGTH_PREFIXED",
    "identity-file": "ground:IDENTITY_FILE",
    "peer-id": "ground:PEER_ID",
    "public-key": "identities:PUBLIC_KEY",
    "peer-id-binary": "identities:PEER_ID_BINARY",
    "envelope": "identities:ENVELOPE",
    "peer-record": "identities:PEER_RECORD",
    "identify": "identities:IDENTIFY",
    "multiaddr-text": "addresses:MULTIADDR_TEXT",
    "multiaddr-binary": "addresses:MULTIADDR_BINARY",
    "multistream-initiator": "streams:MULTISTREAM_INITIATOR",
    "multistream-responder": "streams:MULTISTREAM_RESPONDER",
    "noise-handshake-initiator": "secure:NOISE_HANDSHAKE_INITIATOR",
    "noise-handshake-responder": "secure:NOISE_HANDSHAKE_RESPONDER",
    "noise-payload": "secure:NOISE_PAYLOAD",
    "noise-transport": "secure:NOISE_TRANSPORT",
    "upgrade": "secure:UPGRADE",
    "pnet": "secure:PNET",
    "swarm-key": "secure:SWARM_KEY",
    "quic-noise": "quic.packets:QUIC_NOISE",
    "quic-tls-server": "quic.packets:QUIC_TLS_SERVER",
    "quic-tls-client": "quic.packets:QUIC_TLS_CLIENT",
    "quic-datagrams": "quic.packets:QUIC_DATAGRAMS",
    "quic-retry-token": "quic.packets:RETRY_TOKEN",
    "quic-session": "quic.session:QUIC_SESSION",
    "quic-fec-receiver": "quic.fec:QUIC_FEC_RECEIVER",
    "quic-fec-work": "quic.fec:QUIC_FEC_WORK",
    "quic-fec-report": "quic.fec:QUIC_FEC_REPORT",
    "quic-path": "quic.path:QUIC_PATH",
    "stun-message": "traversal.stun:STUN_MESSAGE",
    "stun-responder": "traversal.stun:STUN_RESPONDER",
    "birthday-message": "traversal.birthday:BIRTHDAY_MESSAGE",
    "birthday-hard": "traversal.birthday:BIRTHDAY_HARD",
    "birthday-easy": "traversal.birthday:BIRTHDAY_EASY",
    "ice-agent": "traversal.ice:ICE_AGENT",
    "ice-coordination": "traversal.ice:ICE_COORDINATION",
    "yamux": "streams:YAMUX",
    "circuit-hop": "traversal.relay:CIRCUIT_HOP",
    "circuit-stop": "traversal.relay:CIRCUIT_STOP",
    "circuit-voucher": "traversal.relay:CIRCUIT_VOUCHER",
    "websocket-server": "websocket:WEBSOCKET_SERVER",
    "websocket-client": "websocket:WEBSOCKET_CLIENT",
    "autonat-messages": "traversal.autonat:AUTONAT_MESSAGES",
    "autonat-server": "traversal.autonat:AUTONAT_SERVER",
    "pcp": "traversal.portmap:PCP",
    "nat-pmp": "traversal.portmap:NAT_PMP",
    "upnp-ssdp": "traversal.portmap:SSDP",
    "upnp-description": "traversal.portmap:DESCRIPTION",
    "upnp-soap": "traversal.portmap:SOAP",
    "upnp-http": "traversal.portmap:HTTP",
    "dcutr-initiator": "traversal.dcutr:DCUTR_INITIATOR",
    "dcutr-responder": "traversal.dcutr:DCUTR_RESPONDER",
    "punch-messages": "traversal.dcutr:PUNCH_MESSAGES",
    "punch-candidates": "traversal.dcutr:PUNCH_CANDIDATES",
    "manifest": "content:MANIFEST",
    "safetensors-header": "content:SAFETENSORS_HEADER",
    "ticket": "content:TICKET",
    "ticket-body": "content:TICKET_BODY",
    "cid": "content:CID_FORMS",
    "content-server": "content:CONTENT_SERVER",
    "content-client": "content:CONTENT_CLIENT",
    "name-question": "names:NAME_QUESTION",
    "name-record": "names:NAME_RECORD",
    "name-ref": "names:NAME_REF",
    "hub-description": "names:HUB_DESCRIPTION",
    "hub-route": "names:HUB_ROUTE",
    "bitswap": "bitswap:BITSWAP",
    "holdings": "content:HOLDINGS",
    "rpc-encoding": "rpc:ENCODING",
    "rpc-client": "rpc:CLIENT",
    "rpc-server": "rpc:SERVER",
    "rpc-message": "rpc:MESSAGE",
    "rpc-shared": "rpc:SHARED",
    "ports": "ports:PORTS",
    "crdt-canonical": "crdt:CANONICAL",
    "crdt-header": "crdt:HEADER",
    "crdt-chain": "crdt:CHAIN",
    "crdt-fork": "crdt:FORK",
    "crdt-genesis": "crdt:SMALL",
    "kad-request": "dht:KAD_REQUEST",
    "kad-response": "dht:KAD_RESPONSE",
    "kad-values": "dht:KAD_VALUES",
    "kad-plain": "dht:KAD_PLAIN",
    "rendezvous-request": "discovery:RENDEZVOUS_REQUEST",
    "rendezvous-response": "discovery:RENDEZVOUS_RESPONSE",
    "mdns": "discovery:MDNS",
    "topics-rpc": "topics:TOPICS_RPC",
    "topics-router": "topics:TOPICS_ROUTER",
    "crdt-write": "crdt:WRITE",
    "crdt-proof": "crdt:PROOF",
    "crdt-snapshot": "crdt:SNAPSHOT",
    "crdt-json-proof": "crdt:JSON_PROOF",
    "crdt-tree": "crdt:TREE",
    "crdt-text-update": "crdt:UPDATE",
    "crdt-text-edits": "crdt:EDITS",
    "crdt-sync": "crdt:SYNC",
    "crdt-rights": "crdt:RIGHTS",
    "config-file": "settings:CONFIG_FILE",
    "config-environment": "settings:CONFIG_ENVIRONMENT",
}
"""Name -> module in `tools.fuzz.targets` and attribute."""


def load(name: str) -> Target:
    """Import one target. Raises `KeyError` for a name that is not in the table."""
    module, attribute = TARGETS[name].split(":")
    target = getattr(importlib.import_module(f"tools.fuzz.targets.{module}"), attribute)
    if not isinstance(target, Target) or target.name != name:
        raise TypeError(f"{TARGETS[name]} is not the target {name!r}")
    return target
