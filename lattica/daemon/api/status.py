"""How a node is, as a message of the API and as JSON; nothing is begun by looking."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

import lattica
from lattica.daemon.api.pb import node_pb2 as pb

if TYPE_CHECKING:
    from lattica.daemon.node.member import Member
    from lattica.node import Node


def node_status(member: Member) -> pb.NodeStatus:
    """All of it."""
    node = member.node
    status = pb.NodeStatus(
        peer_id=str(node.peer_id),
        version=lattica.__version__,
        pid=os.getpid(),
        uptime_seconds=trio.current_time() - member.started_at,
        addrs=map(str, node.addrs),
        announcing=node.announcing,
        peers=_peers(node),
        publications=publications(member),
        transfers=[
            pb.Transfer(
                id=each.id,
                kind=each.kind,
                name=each.name,
                path=each.path,
                phase=each.phase,
                bytes_done=each.bytes_done,
                bytes_total=each.bytes_total,
                bytes_per_second=each.rate,
                sources=each.sources,
            )
            for each in member.transfers
        ],
        documents=documents(member) if "store" in node.in_use else (),
        ports=[
            pb.Port(name=each.name, target=str(each.target), connections=len(each.scopes))
            for each in member.exposures
        ],
        bootstrap=node.config.bootstrap,
        data_dir=str(node.config.data_dir),
    )
    if "topics" in node.in_use:
        status.topics.extend(
            pb.Topic(name=name, subscriptions=count, peers=len(node.topics.peers(name)))
            for name, count in node.topics.subscribed().items()
        )
    if "dht" in node.in_use:
        dht = node.dht.status()
        status.dht.CopyFrom(
            pb.Dht(
                mode=dht.mode,
                peers=dht.peers,
                values=dht.values,
                providers=dht.providers,
                provided=dht.provided,
                announced_to=dht.announced_to,
                storage=dht.storage,
                network_size=dht.network_size,
                network_size_error=dht.network_size_error,
                providing=dht.providing,
                reprovide_due=dht.reprovide_due,
                reprovide_lag_seconds=dht.reprovide_lag,
                crowded=dht.crowded,
            )
        )
    relay = node.traversal.relay_service
    if relay is not None:
        stats, limits = relay.stats, node.config.nat.relay_server.limits
        status.relay.CopyFrom(
            pb.Relay(
                reservations=stats.reservations,
                max_reservations=limits.max_reservations,
                circuits=stats.circuits,
                max_circuits=limits.max_circuits,
            )
        )
    return status


def _peers(node: Node) -> list[pb.Peer]:
    found = []
    for peer in node.peers():
        connections = [
            pb.Connection(
                path=each.path,
                addr=str(each.addr),
                direction=each.direction.name.lower(),
                age_seconds=each.age,
                rtt_seconds=each.rtt,
                streams=each.streams,
                cipher=each.cipher,
            )
            for each in peer.connections
        ]
        shown = pb.Peer(peer_id=str(peer.peer_id), agent=peer.agent, connections=connections)
        path = node.path(peer.peer_id)
        if path is not None:
            shown.path, shown.addr, shown.age_seconds = path.path, str(path.addr), path.age
            if path.relay is not None:
                shown.relay = str(path.relay)
            if path.rtt is not None:
                shown.rtt_seconds = path.rtt
            if path.next_attempt is not None:
                shown.next_attempt_seconds = path.next_attempt
            shown.strategies.extend(
                pb.Strategy(name=way.name, ok=way.ok, reason=way.reason, applicable=way.applicable)
                for way in path.ways
            )
        found.append(shown)
    return found


def publications(member: Member) -> list[pb.Publication]:
    """What the node serves."""
    return [
        pb.Publication(
            cid=str(publication.cid),
            name=publication.name,
            files=len(publication.manifest.files),
            bytes=publication.manifest.size,
            ticket=str(ticket),
            can_improve=ticket.can_improve,
        )
        for publication, ticket in member.content.publications()
    ]


def documents(member: Member) -> list[pb.Document]:
    """The CRDT documents whose files the node has."""
    opened = member.documents
    return [
        pb.Document(
            id=each.id,
            name=each.name,
            mode=mode_name(each.mode),
            open=each.is_open,
            peers=len(opened[each.id].peers) if each.id in opened else 0,
        )
        for each in member.node.store.documents()
    ]


def mode_name(mode: object) -> str:
    """Who may write, as options of commands name it."""
    return str(getattr(mode, "name", mode)).lower().replace("_", "-")


def plain(message: Message) -> dict[str, object]:
    """A message as JSON values: every field is there, None where there is nothing, and bytes do
    not occur in what this is for."""
    found: dict[str, object] = {}
    for field in message.DESCRIPTOR.fields:
        is_message = field.type == FieldDescriptor.TYPE_MESSAGE
        value = getattr(message, field.name)
        if field.is_repeated:
            found[field.name] = [plain(each) for each in value] if is_message else list(value)
        elif field.has_presence and not message.HasField(field.name):
            found[field.name] = None
        else:
            found[field.name] = plain(value) if is_message else value
    return found
