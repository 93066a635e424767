"""Keeps a node connected to its bootstrap peers: drives `lattica.nat.traversal.redial`."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from contextlib import suppress

import trio

from lattica.nat.base.errors import AccessDeniedError, DialError, LatticaError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import Kind, kind_of, parse_multiaddr, split_peer
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.addresses.address_book import GIVEN_TTL
from lattica.nat.swarm.events import EventsLost, PeerConnected, PeerDisconnected, SwarmEvent
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.redial import Change, Phase, Redial

logger = logging.getLogger(__name__)

_HEAD_START = 2.0
_TAG = "bootstrap"
"""Protects the peers from trimming, which they would answer by being dialed again."""


class _Target:
    """A peer with its addresses; or an address, and who answered there last."""

    def __init__(self, peer_id: PeerId | None, redial: Redial) -> None:
        self.expected = peer_id
        """Who must answer; None: anybody."""
        self.peer_id = peer_id
        """Whose connections count; None before anybody has answered."""
        self.addrs: list[Multiaddr] = []
        self.redial = redial
        self.changed = trio.Event()
        """Replaced when it has been heard."""
        self.attempt = trio.CancelScope()
        self.last_end = ""
        """Why the last connection ended."""

    def __str__(self) -> str:
        return str(self.expected or self.addrs[0])


class BootstrapPeers:
    """The peers of one node's bootstrap list.

    Args:
        addrs: multiaddrs. All those with the same `/p2p/ID` are dialed together. One without
            is a peer of its own, and whoever answers there is it, until somebody else does.

    Raises :class:`~lattica.errors.AddressError`. Peers are dialed from :meth:`run` on, as
    :class:`~lattica.nat.traversal.redial.Redial` says, one attempt at a time for each peer.
    """

    def __init__(self, swarm: Swarm, addrs: Iterable[str]) -> None:
        self._swarm = swarm
        self._scope = trio.CancelScope()
        self._locks: dict[PeerId, trio.Lock] = {}
        rng = random.Random()
        named: dict[PeerId, _Target] = {}
        self._targets: list[_Target] = []
        for text in addrs:
            addr, peer_id = split_peer(parse_multiaddr(text))
            if peer_id == swarm.identity.peer_id:
                continue  # the same list is given to every node
            target = named.get(peer_id) if peer_id is not None else None
            if target is None:
                # Time begins when the node runs; until then everything is long due.
                target = _Target(peer_id, Redial(0.0, rng))
                self._targets.append(target)
                if peer_id is not None:
                    named[peer_id] = target
            if addr.to_bytes():  # `/p2p/ID` alone: where it is, something else has to find out
                target.addrs.append(addr)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the peers connected until :meth:`stop`, cancellation or the swarm's end.

        Reports having started when the addresses are remembered.
        """
        self._remember_addrs(self._targets)
        for target in self._targets:
            self._protect(target.peer_id)
        task_status.started()
        if not self._targets:
            return
        with self._scope, self._swarm.events.subscribe() as events:
            async with trio.open_nursery() as nursery:
                for target in self._targets:
                    nursery.start_soon(self._keep, target)
                async for event in events:
                    self._on_event(event)
                nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Let :meth:`run` end: no attempt starts from now on, and one under way is given up."""
        self._scope.cancel()

    @property
    def peer_ids(self) -> tuple[PeerId, ...]:
        """Who they are, as far as that is known."""
        known = (target.peer_id for target in self._targets if target.peer_id is not None)
        return tuple(dict.fromkeys(known))

    def release(self, peer_id: PeerId) -> None:
        """Leave a peer alone until :meth:`resume`; an attempt under way is given up."""
        for target in self._targets_of(peer_id):
            target.redial.release()
            target.attempt.cancel()
            self._protect(peer_id)

    def resume(self, peer_id: PeerId) -> None:
        """The peer is wanted again. Does nothing if it was not released."""
        for target in self._targets_of(peer_id):
            if target.redial.phase is Phase.RELEASED:
                target.redial.resume(trio.current_time())
                target.changed.set()
                self._protect(peer_id)

    def _targets_of(self, peer_id: PeerId) -> list[_Target]:
        return [target for target in self._targets if target.peer_id == peer_id]

    def _remember_addrs(self, targets: Iterable[_Target]) -> None:
        for target in targets:
            if target.peer_id is not None:
                self._swarm.address_book.add(target.peer_id, target.addrs, GIVEN_TTL)

    def _protect(self, peer_id: PeerId | None) -> None:
        """Protect the peer from trimming, or no longer, as its targets stand."""
        if peer_id is None:
            return
        tags = self._swarm.registry.tags
        if any(t.redial.phase is not Phase.RELEASED for t in self._targets_of(peer_id)):
            tags.protect(peer_id, _TAG)
        else:
            tags.unprotect(peer_id, _TAG)

    def _on_event(self, event: SwarmEvent) -> None:
        for target in self._targets:
            if isinstance(event, PeerConnected | PeerDisconnected):
                if event.peer_id != target.peer_id:
                    continue
                if isinstance(event, PeerDisconnected):
                    target.last_end = event.reason
                target.changed.set()
            elif isinstance(event, EventsLost):
                target.changed.set()

    async def _keep(self, target: _Target) -> None:
        """One target, until the end or until it turns out that it may not be dialed."""
        redial = target.redial
        if target.expected is None and target.addrs[0] in self._swarm.addrs:
            return  # this node itself: the same list is given to every node
        while True:
            target.changed = trio.Event()
            change = redial.observe(trio.current_time(), self._is_connected(target))
            self._report(target, change, f"its connections end at once ({target.last_end})")
            if redial.phase is Phase.WAITING and redial.next_wake <= trio.current_time():
                try:
                    await self._attempt(target)
                except AccessDeniedError as error:
                    # Rules stay what they are as long as the node lives.
                    logger.warning("bootstrap peer is not dialed: %s", error)
                    return
            else:
                with trio.move_on_at(redial.next_wake):
                    await target.changed.wait()

    def _is_connected(self, target: _Target) -> bool:
        return target.peer_id is not None and self._swarm.registry.best(target.peer_id) is not None

    async def _attempt(self, target: _Target) -> None:
        """Dial once. Raises :class:`AccessDeniedError` if the peer may not be dialed at all."""
        redial = target.redial
        redial.begin(trio.current_time())
        problem: str | None = None  # and not the error, which has this frame
        has_met_another = False
        with trio.CancelScope() as target.attempt:
            try:
                await self._dial_target(target)
                redial.connected(trio.current_time())
                return
            except AccessDeniedError:
                raise
            except (LatticaError, OSError) as error:
                problem = str(error)
                has_met_another = isinstance(error, DialError) and error.has_met_another
            except Exception as error:
                # A defect of ours costs this attempt, not the node.
                logger.exception("bootstrap: internal error peer=%s", target)
                problem = repr(error)
        if problem is not None:
            is_alone = not (self._swarm.registry.total or has_met_another)
            change = redial.failed(trio.current_time(), is_alone=is_alone)
            logger.debug("bootstrap: attempt failed: %s peer=%s", problem, target)
            self._report(target, change, problem)

    async def _dial_target(self, target: _Target) -> None:
        logger.debug("bootstrap: dialing peer=%s", target)
        self._remember_addrs([target])  # they may have been forgotten in the meantime
        if target.peer_id is None:
            self._learn(target, (await self._swarm.connect(None, target.addrs)).peer_id)
            return
        # Two targets may turn out to be one peer.
        async with self._locks.setdefault(target.peer_id, trio.Lock()):
            if not self._is_connected(target):
                connection = await self._dial_tcp_first(target)
                self._learn(target, connection.peer_id)

    async def _dial_tcp_first(self, target: _Target) -> Connection:
        """Give TCP a head start: a peer that is not itself behind relays is most often one.

        It shows us which TCP port our NAT has given to the one that we listen on, and what it
        relays goes through it faster.
        """
        tcp = [addr for addr in target.addrs if kind_of(addr) is Kind.TCP]
        is_relayed = any(kind_of(addr) is Kind.CIRCUIT for addr in target.addrs)
        if tcp and len(tcp) < len(target.addrs) and not is_relayed:
            with trio.move_on_after(_HEAD_START), suppress(DialError):
                return await self._swarm.dial(target.expected, tcp)
        return await self._swarm.connect(target.expected, target.addrs)

    def _learn(self, target: _Target, peer_id: PeerId) -> None:
        """Who has answered."""
        before, target.peer_id = target.peer_id, peer_id
        if before != peer_id:
            if before is not None:
                self._locks.pop(before, None)
                self._protect(before)
            self._protect(peer_id)
            self._remember_addrs([target])

    def _report(self, target: _Target, change: Change | None, problem: str) -> None:
        if change is Change.UNREACHABLE:
            logger.info(
                "bootstrap peer is unreachable: %s; it is dialed again until it answers, after "
                "%g s at most: check that it runs, that its address is right, and that it does not "
                "keep this peer out (a ban, its lists) peer=%s",
                problem,
                target.redial.policy.limit,
                target,
            )
        elif change is Change.BACK:
            logger.info("bootstrap peer is back peer=%s", target)
