"""Routers of GossipSub that exchange their bytes in memory, on a clock of the test's."""

from __future__ import annotations

import random
from dataclasses import replace

from lattica.dht.topics.config import TopicsConfig
from lattica.dht.topics.core.actions import (
    Action,
    Connect,
    Deliver,
    Forward,
    Send,
    Validate,
)
from lattica.dht.topics.core.peer import Version
from lattica.dht.topics.core.router import Router
from lattica.dht.topics.signing import StrictSigning
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId

TOPIC = "news"


class Member:
    """A router, and what has come out of it."""

    def __init__(self, config: TopicsConfig, seed: int) -> None:
        self.identity = Identity.generate()
        self.router = Router(
            self.identity.peer_id,
            config,
            StrictSigning(self.identity.peer_id, self.identity.sign),
            random.Random(seed),
            first_seqno=seed << 32,
            record_of=lambda peer_id: self.records.get(peer_id, b""),
        )
        self.records: dict[PeerId, bytes] = {}
        """What peers have said of themselves."""
        self.delivered: list[bytes] = []
        self.validating: list[Validate] = []
        self.connects: list[Connect] = []
        self.told: list[Action] = []
        self.sent: list[tuple[PeerId, bytes]] = []

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id


class RouterNet:
    """Members that are linked by hand. Bytes arrive at once and in order, but over :attr:`cut`."""

    def __init__(self, config: TopicsConfig | None = None) -> None:
        self.config = config or TopicsConfig()
        self.now = 1000.0
        self.members: dict[PeerId, Member] = {}
        self.cut: set[frozenset[PeerId]] = set()
        """Links that swallow what is sent."""

    def member(self, **config: object) -> Member:
        made = Member(replace(self.config, **config), len(self.members) + 1)  # type: ignore[arg-type]
        self.members[made.peer_id] = made
        return made

    def link(self, dialer: Member, other: Member, version: Version = Version.V12) -> None:
        first = dialer.router.add_peer(other.peer_id, version, self.now, outbound=True)
        second = other.router.add_peer(dialer.peer_id, version, self.now)
        self.do(dialer, first)
        self.do(other, second)

    def unlink(self, one: Member, other: Member) -> None:
        self.do(one, one.router.remove_peer(other.peer_id, self.now))
        self.do(other, other.router.remove_peer(one.peer_id, self.now))

    def subscribe(self, *members: Member, topic: str = TOPIC) -> None:
        for member in members:
            self.do(member, member.router.subscribe(topic, self.now))

    def publish(self, member: Member, data: bytes, topic: str = TOPIC) -> int:
        count, actions = member.router.publish(topic, data, self.now)
        self.do(member, actions)
        return count

    def tick(self, seconds: float = 1.0) -> None:
        """A heartbeat of everybody."""
        self.now += seconds
        for member in self.members.values():
            self.do(member, member.router.heartbeat(self.now))

    def send(self, sender: PeerId, receiver: Member, rpc: bytes) -> None:
        self.do(receiver, receiver.router.receive(sender, rpc, self.now))

    def do(self, member: Member, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Deliver):
                member.delivered.append(action.message.data)
            elif isinstance(action, Validate):
                member.validating.append(action)
            elif isinstance(action, Connect):
                member.connects.append(action)
            elif isinstance(action, Send):
                self._carry(member, action.peer_id, action.rpc)
            elif isinstance(action, Forward):
                for peer_id in action.peer_ids:
                    self._carry(member, peer_id, action.rpc)
            else:
                member.told.append(action)

    def _carry(self, sender: Member, receiver: PeerId, rpc: bytes) -> None:
        sender.sent.append((receiver, rpc))
        member = self.members.get(receiver)
        if member is not None and frozenset((sender.peer_id, receiver)) not in self.cut:
            self.send(sender.peer_id, member, rpc)
