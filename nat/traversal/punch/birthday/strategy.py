"""The birthday method with real sockets: a strategy for a direct connection (see `birthday`)."""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

import trio

from lattica.nat.base.errors import (
    AccessDeniedError,
    DialAttempt,
    DialError,
    IncompleteReadError,
    LatticaError,
    RemoteProtocolError,
    ResourceLimitError,
)
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.addresses import socket_multiaddr
from lattica.nat.base.net.interfaces import local_interfaces
from lattica.nat.base.net.own_sockets import own
from lattica.nat.mux.connection import Connection, Direction
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.addresses.nat_report import NatReport
from lattica.nat.swarm.serving.protocols import StreamHandler
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.transport.udp_socket import Address
from lattica.nat.traversal.punch.birthday.config import BirthdayConfig
from lattica.nat.traversal.punch.birthday.core import (
    BirthdayEasy,
    BirthdayHard,
    Meeting,
    Role,
    check_target,
    role_of,
)
from lattica.nat.traversal.punch.birthday.messages import (
    MAX_MESSAGE,
    PROTOCOL,
    TOKEN_SIZE,
    Hello,
    Message,
    Met,
    Ready,
    Refusal,
    decode,
    encode,
    hello,
)
from lattica.nat.traversal.punch.exchange import open_on
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.punch.probe_budget import ProbeBudget
from lattica.nat.traversal.punch.round_limiter import HOUR, RoundLimiter

if TYPE_CHECKING:
    from lattica.nat.quic.endpoint import Foreign, QuicEndpoint

if sys.platform != "win32":
    import resource

logger = logging.getLogger(__name__)

_FILES_TO_SPARE = 128
"""Open files that are left to the rest of the process."""
_FEWEST_SOCKETS = 32
"""With fewer the chance is not worth the probes."""
_MAX_DATAGRAM = 2048
_BATCH = 16
_GRACE = 2.0
"""Seconds that the easy side waits for its end of a connection that the other end has."""
_SPENT = "the budget of probes to this address, or to all, is spent for now"

T = TypeVar("T", Hello, Ready, Met)


class BirthdayStrategy:
    """Direct connections through an endpoint-dependent NAT, coordinated over a relayed one.

    The rest of the node goes on meanwhile; a run costs the hard side up to
    `BirthdayConfig.sockets` open files, which are closed at its end in any case. `budget` is for
    datagrams to addresses that peers name; one may be shared with other strategies.
    """

    name = "birthday"

    def __init__(
        self,
        swarm: Swarm,
        config: BirthdayConfig | None = None,
        *,
        budget: ProbeBudget | None = None,
    ) -> None:
        self._swarm = swarm
        self._config = config = config or BirthdayConfig()
        self._rng = random.SystemRandom()
        self._gater = swarm.gater
        self._budget = budget or ProbeBudget(
            config.per_address, config.per_hour, clock=trio.current_time
        )
        clock = trio.current_time
        self._begun = RoundLimiter(config.runs_per_hour, None, clock, period=HOUR)
        self._served = RoundLimiter(
            config.runs_per_hour, config.total_runs_per_hour, clock, period=HOUR
        )
        self._active: set[PeerId] = set()

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """The other end's part."""
        return {PROTOCOL: self._serve} if self._config.enabled else {}

    async def attempt(self, relayed: Connection) -> Connection:
        """Make a direct connection to the peer at the other end of `relayed`.

        Takes up to `BirthdayConfig.patience` and `BirthdayConfig.timeout`. May be cancelled at
        any time; the peer then stops too. Raises :class:`NotApplicable` where it cannot work for
        this pair or other strategies do, :class:`DialError` where it did not work this time,
        :class:`ResourceLimitError` where too many runs are under way, and what streams raise.
        """
        if not self._config.enabled:
            raise NotApplicable("the birthday method is turned off")
        peer = relayed.peer_id
        with self._run(peer, self._config.max_runs):
            own = await self._introduction(self._rng.randbytes(TOKEN_SIZE))
            if not own.mapped:
                raise NotApplicable("no STUN responder sees this node over UDP and IPv4")
            try:
                with trio.fail_after(self._config.timeout):
                    stream = await open_on(relayed, PROTOCOL)
                    async with stream:
                        return await self._ask(stream, own)
            except trio.TooSlowError:
                raise self._failure(peer, f"nothing after {self._config.timeout:g} s") from None

    async def _ask(self, stream: Stream, own: Hello) -> Connection:
        await stream.send_message(encode(own))
        answer = await _receive(stream)
        if isinstance(answer, Refusal):
            if answer.temporary:
                raise self._failure(stream.peer_id, f"the peer is busy: {answer.reason}")
            raise NotApplicable(answer.reason)
        if not isinstance(answer, Hello) or answer.token != own.token:
            raise RemoteProtocolError("birthday: a hello without a proper answer")
        role = role_of(own, answer)
        self._vet(own, answer)
        self._admit(self._begun, stream.peer_id)
        return await self._meet(role, stream, answer)

    async def _serve(self, stream: Stream) -> None:
        """The other end's part: answer a peer that wants to meet.

        Raises :class:`RemoteProtocolError` and what streams raise.
        """
        relayed = stream.connection
        if not relayed.is_relayed or relayed.direction is not Direction.OUTBOUND:
            stream.reset("hole punching is for relayed connections, begun by their target")
            return
        peer = stream.peer_id
        with trio.move_on_after(self._config.timeout):
            theirs = await _receive(stream)
            if not isinstance(theirs, Hello):
                raise RemoteProtocolError("birthday: no hello at first")
            try:
                with self._run(peer, max(1, self._config.max_runs // 2)):
                    own = await self._introduction(theirs.token)
                    role = role_of(own, theirs)
                    self._vet(own, theirs)
                    best = self._swarm.registry.best(peer)
                    if best is not None and not best.is_relayed:
                        raise NotApplicable("there is a direct connection already")
                    self._admit(self._served, peer)
                    await stream.send_message(encode(own))
                    await self._meet(role, stream, theirs)
            except NotApplicable as error:
                await stream.send_message(encode(Refusal(str(error))))
            except ResourceLimitError as error:
                await stream.send_message(encode(Refusal(str(error), temporary=True)))
            except OSError as error:  # no connection, or no sockets
                logger.debug("birthday run failed: %s peer=%s", error, peer)

    async def _introduction(self, token: bytes) -> Hello:
        """What this node says of itself, once it knows enough of its NAT or has no hope to."""
        nat = self._swarm.nat
        with trio.move_on_after(self._config.patience):
            await nat.wait_until(_is_known)
        return hello(token, nat.value)

    # --- what a run may do ---

    @contextmanager
    def _run(self, peer: PeerId, limit: int) -> Iterator[None]:
        """Count a run, while it goes on, unless there are `limit` already."""
        if peer in self._active:
            raise ResourceLimitError("a birthday run with this peer is under way")
        if len(self._active) >= limit:
            raise ResourceLimitError("too many birthday runs are under way")
        self._active.add(peer)
        try:
            yield
        finally:
            self._active.discard(peer)

    def _admit(self, limiter: RoundLimiter, peer: PeerId) -> None:
        if not limiter.admit(peer):
            raise ResourceLimitError("too many birthday runs with this peer, or with all, of late")

    def _vet(self, own: Hello, theirs: Hello) -> None:
        """Refuse to send to where a peer cannot be, or where nothing may be sent to."""
        ours = {interface.ip for interface in local_interfaces()}
        ours |= {ip_address(host) for host in own.hosts}
        target = ip_address(theirs.mapped[-1][0])
        check_target(target, frozenset(ours))
        try:
            self._gater.check_address(target)
        except AccessDeniedError:
            raise NotApplicable(f"access rules forbid to send anything to {target}") from None

    def _failure(self, peer: PeerId, why: str) -> DialError:
        return DialError(peer, [DialAttempt("birthday method", why)])

    async def _meet(self, role: Role, stream: Stream, theirs: Hello) -> Connection:
        if role is Role.HARD:
            return await self._meet_hard(stream, theirs)
        return await self._meet_easy(stream, theirs)

    def _endpoint(self) -> QuicEndpoint:
        """The socket whose address outside the STUN responders have told."""
        for endpoint in self._swarm.udp_endpoints:
            if endpoint.family == socket.AF_INET:
                return endpoint
        raise NotApplicable("this node does not listen on UDP over IPv4")

    # --- the hard side ---

    async def _meet_hard(self, stream: Stream, theirs: Hello) -> Connection:
        peer = stream.peer_id
        sockets = _open_sockets(self._endpoint().local[0], self._config.sockets)
        winner: socket.socket | None = None
        try:
            core = BirthdayHard(
                theirs.token,
                theirs.mapped[-1],
                sockets=len(sockets),
                refresh=self._config.refresh,
                clock=trio.current_time,
            )
            meeting = await self._wait_for_probe(core, sockets, stream)
            source = str(meeting.source[0]), meeting.source[1]
            await stream.send_message(encode(Met(source[1])))
            winner = sockets[meeting.index]
        finally:  # the losers' ports are given back, before the rest
            for sock in sockets:
                if sock is not winner:
                    sock.close()
        logger.debug("birthday probe came from %s:%d peer=%s", *source, peer)
        addr = socket_multiaddr(source, "udp/{}/quic-v1/noise")
        # From here on the socket is the swarm's.
        return await self._swarm.dial_from_socket(winner, addr, peer)

    async def _wait_for_probe(
        self, core: BirthdayHard, sockets: Sequence[socket.socket], stream: Stream
    ) -> Meeting:
        trouble = _Trouble()

        async def send() -> None:
            told = False
            while (due := core.next_timer()) is not None:
                await trio.sleep_until(due)
                for index in core.poll():
                    if not self._budget.take(core.target[0]):
                        trouble.stop(_SPENT)
                        return
                    with suppress(OSError):  # as if the network had lost it
                        sockets[index].sendto(core.probe, core.target)
                if core.is_open and not told:
                    told = True
                    with trouble.noticed():
                        await stream.send_message(encode(Ready(len(sockets))))

        async def receive(index: int) -> None:
            sock = sockets[index]
            while True:
                await trio.lowlevel.wait_readable(sock)
                for data, source in _received(sock):
                    if (answer := core.receive(index, data, source)) is not None:
                        with suppress(OSError):
                            sock.sendto(answer, source)
                if core.meeting is not None:
                    trouble.scope.cancel()

        async def watch() -> None:
            with trouble.noticed():
                await _receive(stream)
                raise RemoteProtocolError("birthday: the easy side has nothing to say")

        async with trio.open_nursery() as nursery:
            trouble.scope = nursery.cancel_scope
            nursery.start_soon(send)
            nursery.start_soon(watch)
            for index in range(len(sockets)):
                nursery.start_soon(receive, index)
        if core.meeting is None:
            raise self._failure(stream.peer_id, trouble.why)
        return core.meeting

    # --- the easy side ---

    async def _meet_easy(self, stream: Stream, theirs: Hello) -> Connection:
        await _expect(stream, Ready)
        peer, endpoint, trouble = stream.peer_id, self._endpoint(), _Trouble()
        core = BirthdayEasy(
            theirs.token,
            theirs.mapped[-1][0],
            hints=[port for _, port in theirs.mapped],
            probes=self._config.probes,
            rate=self._config.rate,
            clock=trio.current_time,
            rng=self._rng,
        )
        probing = trio.CancelScope()
        found: list[Connection] = []

        async def send() -> None:
            with probing:
                while (due := core.next_timer()) is not None:
                    await trio.sleep_until(due)
                    for destination in core.poll():
                        if not self._budget.take(destination[0]):
                            trouble.stop(_SPENT)
                            return
                        endpoint.send_probe(core.probe, destination)
                if core.has_failed:
                    trouble.stop(f"none of {core.sent} probes met one of the peer's ports")

        async def receive(channel: trio.MemoryReceiveChannel[Foreign]) -> None:
            async for data, source in channel:
                if core.receive(data, source):
                    probing.cancel()

        async def watch() -> None:
            with trouble.noticed():
                await _expect(stream, Met)
                probing.cancel()
                with suppress(IncompleteReadError):
                    await _receive(stream)
                    raise RemoteProtocolError("birthday: the hard side has nothing more to say")
                # It has its connection; this end of it may be a moment behind.
                await trio.sleep(_GRACE)
                trouble.stop("the peer was met, but did not get through")

        async def wait() -> None:
            found.append(await self._swarm.wait_direct(peer))
            trouble.scope.cancel()

        with endpoint.foreign() as channel:
            async with trio.open_nursery() as nursery:
                trouble.scope = nursery.cancel_scope
                for task in (send, watch, wait):
                    nursery.start_soon(task)
                nursery.start_soon(receive, channel)
        if not found:
            raise self._failure(peer, trouble.why)
        return found[0]


def _is_known(report: NatReport) -> bool:
    """Whether there is enough in it to go by, or nothing to hope for."""
    return report.udp_works is False or bool(report.mapping is not None and report.mapped)


class _Trouble:
    """Why a run ended without a meeting, and the scope that ends it."""

    def __init__(self) -> None:
        self.why = "ended without a reason"
        self.scope = trio.CancelScope()

    def stop(self, why: str) -> None:
        self.why = why
        self.scope.cancel()

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """What the stream raises ends the run, and is its reason."""
        try:
            yield
        except IncompleteReadError:
            self.stop("the peer gave up")
        except (LatticaError, OSError) as error:
            self.stop(str(error))


async def _receive(stream: Stream) -> Message:
    """Wait for the peer's next message. Raises what :meth:`Stream.receive_message` does."""
    return decode(await stream.receive_message(MAX_MESSAGE))


async def _expect(stream: Stream, kind: type[T]) -> T:
    """As :func:`_receive`, and it must be of this kind."""
    message = await _receive(stream)
    if isinstance(message, kind):
        return message
    if isinstance(message, Refusal):
        raise ResourceLimitError(f"the peer stops: {message.reason}")
    raise RemoteProtocolError(f"birthday: {type(message).__name__} in a wrong place")


def _open_sockets(host: str, wanted: int) -> list[socket.socket]:
    """UDP sockets on ports that the system chooses, `wanted` or as many as can be had.

    Raises :class:`ResourceLimitError` where those are too few, or the address is gone.
    """
    sockets: list[socket.socket] = []
    try:
        for _ in range(min(wanted, _files_left() - _FILES_TO_SPARE)):
            sock = own(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sockets.append(sock)
            sock.setblocking(False)
            sock.bind((host, 0))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            _close(sockets)
            raise ResourceLimitError(f"UDP sockets cannot be had: {error.strerror}") from None
        # Others need some too.
        _close(sockets[-_FILES_TO_SPARE:])
        del sockets[-_FILES_TO_SPARE:]
    if len(sockets) < min(wanted, _FEWEST_SOCKETS):
        _close(sockets)
        raise ResourceLimitError("too few open files are allowed: raise the limit (ulimit -n)")
    return sockets


def _close(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _files_left() -> int:
    """How many more files this process may open."""
    if sys.platform == "win32":
        return 1 << 16
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 1 << 16
    try:
        return limit - len(os.listdir("/dev/fd"))
    except OSError:
        return limit // 2


def _received(sock: socket.socket) -> Iterator[tuple[bytes, Address]]:
    """What is there, and not more than a batch of it."""
    for _ in range(_BATCH):
        try:
            data, source = sock.recvfrom(_MAX_DATAGRAM)
        except OSError:  # nothing there, or news from ICMP, which anybody can forge
            return
        yield data, source
