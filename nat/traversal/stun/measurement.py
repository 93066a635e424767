"""One round of questions to STUN responders, until all is known that they can tell.

Only responders that were given are written to, never an address that one of them names. One
that cannot answer from elsewhere, or to elsewhere, says so (RFC 5780, section 6.1); one that
says nothing makes a NAT look as if it filtered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.traversal.stun.behaviour import (
    Findings,
    Observation,
    Responder,
    believed,
    judge,
)
from lattica.nat.traversal.stun.client import (
    Binding,
    StunClient,
    StunRefused,
    StunTimeout,
    client_on_fresh_socket,
    new_transaction,
)
from lattica.nat.traversal.stun.codec import BindingRequest, Endpoint
from lattica.nat.traversal.stun.transaction import StunTiming

_STAGGER: Final = 0.02
"""Seconds between the first questions, so that mappings are made in the order of the answers."""
_FIRST_ANSWERS: Final = 0.3
"""Seconds for others to answer after the first has, before what they say is looked at."""
_HELPERS: Final = 3
"""Responders that are asked in turn to answer elsewhere, until one can."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A report, and the responders that were believed, with where they see the main socket."""

    report: NatReport
    seen: tuple[Observation, ...]


@dataclass(slots=True)
class _Round:
    """What a round has found so far."""

    findings: Findings
    announced: dict[Endpoint, Endpoint] = field(default_factory=dict)
    """By responder, its other address."""

    @property
    def seen(self) -> list[Observation]:
        return believed(self.findings.observations, self.findings.local_hosts)

    def note(self, **found: object) -> None:
        self.findings = replace(self.findings, **found)  # type: ignore[arg-type]


async def measure(
    main: StunClient,
    responders: Sequence[Responder],
    local_hosts: Iterable[str],
    timing: StunTiming,
    on_report: Callable[[Measured], None],
) -> Measured:
    """Find out what kind of NAT a socket is behind.

    Args:
        main: on the socket whose mapping matters.
        responders: as :func:`~nat_behaviour.choose` has chosen them.
        local_hosts: the addresses of this machine.
        on_report: told what the first answers say, and again when no more are expected. What
            is filtered takes `timing.total` seconds to find out after that.

    Cancellation: at any time; the fresh socket is closed.
    """
    asked = tuple(responders)
    found = _Round(Findings(main.local[1], frozenset(local_hosts), asked))
    await _ask_all(main, asked, found, on_report)
    first = Measured(judge(found.findings), tuple(found.seen))
    on_report(first)
    if not first.seen:
        return first
    try:
        async with client_on_fresh_socket(main.local[0], timing) as fresh:
            await _test_filters(main, fresh, found, first.report, timing)
    except OSError:  # no socket, or no room for one: this much stays unknown
        return first
    return Measured(judge(found.findings), first.seen)


async def _ask_all(
    main: StunClient,
    asked: Sequence[Responder],
    found: _Round,
    on_report: Callable[[Measured], None],
) -> None:
    answers: dict[Responder, Binding] = {}
    answered = trio.Event()

    def take_stock() -> None:
        in_order = [responder for responder in asked if responder in answers]
        observations = tuple(Observation(each, answers[each].mapped) for each in in_order)
        found.note(observations=observations)

    async def report_early(scope: trio.CancelScope) -> None:
        with scope:
            await answered.wait()
            await trio.sleep(_FIRST_ANSWERS)
            take_stock()
            on_report(Measured(judge(found.findings), tuple(found.seen)))

    async def ask(responder: Responder, after: float) -> None:
        await trio.sleep(after)
        binding = await _try(main, responder.endpoint)
        if isinstance(binding, Binding):
            answers[responder] = binding
            answered.set()

    early = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report_early, early)
        async with trio.open_nursery() as asking:
            for number, responder in enumerate(asked):
                asking.start_soon(ask, responder, number * _STAGGER)
        early.cancel()
    take_stock()
    for responder, binding in answers.items():
        other = binding.response.other
        if other is not None:
            found.announced[responder.endpoint] = other


async def _try(
    client: StunClient,
    server: Endpoint,
    *,
    change_ip: bool = False,
    change_port: bool = False,
    response_port: int | None = None,
    accept_from: Sequence[Endpoint] = (),
) -> Binding | StunTimeout | StunRefused:
    try:
        return await client.ask(
            server,
            change_ip=change_ip,
            change_port=change_port,
            response_port=response_port,
            accept_from=accept_from,
        )
    except (StunTimeout, StunRefused) as failure:
        return failure


async def _test_filters(
    main: StunClient, fresh: StunClient, found: _Round, report: NatReport, timing: StunTiming
) -> None:
    """What comes in to a socket that has written to one responder's one address only."""
    seen = found.seen
    first = next((each for each in seen if _twin(each, seen) is not None), seen[0])
    binding = await _try(fresh, first.responder.endpoint)
    if not isinstance(binding, Binding):
        return
    mapped = binding.mapped
    if mapped[0] != first.mapped[0]:
        return  # the NAT has several addresses, or the responder tells stories
    found.note(port_pairs=((fresh.local[1], mapped[1]),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_test_port, fresh, found, first)
        nursery.start_soon(_test_address, main, fresh, found, first, mapped, timing)
        if report.is_translated and report.mapping is Behaviour.ENDPOINT_INDEPENDENT:
            nursery.start_soon(_test_hairpin, main, fresh, found, first.mapped, mapped, timing)


def _twin(each: Observation, seen: Sequence[Observation]) -> Responder | None:
    """Another port of the same responder."""
    here = each.responder
    for other in seen:
        there = other.responder
        if there.host == here.host and there.port != here.port and there.voice == here.voice:
            return there
    return None


async def _test_port(fresh: StunClient, found: _Round, first: Observation) -> None:
    """Whether something comes in from another port of a host that was written to."""
    server, twin = first.responder.endpoint, _twin(first, found.seen)
    if twin is not None:
        source = twin.endpoint
    elif (other := _alternate(found, server)) is not None:
        source = (server[0], other[1])
    else:
        return
    answer = await _try(fresh, server, change_port=True, accept_from=(source,))
    if not isinstance(answer, StunRefused):
        found.note(other_port=isinstance(answer, Binding))


async def _test_address(
    main: StunClient,
    fresh: StunClient,
    found: _Round,
    first: Observation,
    mapped: Endpoint,
    timing: StunTiming,
) -> None:
    """Whether something comes in from a host that was never written to.

    One responder that listens on two addresses can send that (CHANGE-REQUEST). So can two with
    one each: the second is asked from the main socket, to answer to where the first has seen
    the fresh one (RESPONSE-PORT).
    """
    server = first.responder.endpoint
    helpers = [each for each in found.seen if _can_help(each, first, mapped)]
    for helper in helpers[:_HELPERS]:
        endpoint = helper.responder.endpoint
        # To the main socket's own port: shows that it can.
        proof = await _try(main, endpoint, response_port=helper.mapped[1])
        if not isinstance(proof, Binding) or proof.mapped != helper.mapped:
            continue
        found.note(other_address=await _reflected(main, endpoint, fresh, mapped[1], timing))
        return
    if (other := _alternate(found, server)) is not None:
        answer = await _try(fresh, server, change_ip=True, change_port=True, accept_from=(other,))
        if not isinstance(answer, StunRefused):
            found.note(other_address=isinstance(answer, Binding))


def _can_help(each: Observation, first: Observation, mapped: Endpoint) -> bool:
    return each.responder.host != first.responder.host and each.mapped[0] == mapped[0]


def _alternate(found: _Round, server: Endpoint) -> Endpoint | None:
    """The other address that a responder has announced, if that is one."""
    other = found.announced.get(server)
    if other is None or other[0] == server[0] or other[1] == server[1]:
        return None
    return other if (":" in other[0]) is (":" in server[0]) else None


async def _reflected(
    asking: StunClient, server: Endpoint, receiving: StunClient, port: int, timing: StunTiming
) -> bool:
    """Whether an answer comes in at another socket, to which the responder was made to send."""
    request = BindingRequest(new_transaction(), response_port=port)
    with receiving.watching(request.transaction) as arrived:
        return await _repeat([(asking, request, server)], [arrived], timing)


async def _test_hairpin(
    main: StunClient,
    fresh: StunClient,
    found: _Round,
    main_mapped: Endpoint,
    fresh_mapped: Endpoint,
    timing: StunTiming,
) -> None:
    """Whether two sockets of this machine reach each other by their addresses outside.

    Each writes to the other, which opens the one's filter for the other.
    """
    there, back = BindingRequest(new_transaction()), BindingRequest(new_transaction())
    sends = [(main, there, fresh_mapped), (fresh, back, main_mapped)]
    with (
        fresh.watching(there.transaction) as at_fresh,
        main.watching(back.transaction) as at_main,
    ):
        found.note(hairpin=await _repeat(sends, [at_fresh, at_main], timing))


async def _repeat(
    sends: Sequence[tuple[StunClient, BindingRequest, Endpoint]],
    arrivals: Sequence[trio.Event],
    timing: StunTiming,
) -> bool:
    """Send as often as a transaction would; whether any of the events has come meanwhile."""
    came = False

    async def wait(arrival: trio.Event, scope: trio.CancelScope) -> None:
        nonlocal came
        await arrival.wait()
        came = True
        scope.cancel()

    async with trio.open_nursery() as nursery:
        for arrival in arrivals:
            nursery.start_soon(wait, arrival, nursery.cancel_scope)
        pause = timing.first_wait
        for number in range(1, timing.requests + 1):
            for client, request, destination in sends:
                client.send(request, destination)
            await trio.sleep(timing.last_wait if number == timing.requests else pause)
            pause *= 2
        nursery.cancel_scope.cancel()
    return came


async def is_mapped_after(
    idle: float, server: Endpoint, host: str, timing: StunTiming
) -> bool | None:
    """Whether a mapping is still there after `idle` seconds without traffic (RFC 5780, 4.6).

    A fresh socket is mapped and then left alone; another asks the responder to write to it
    (RESPONSE-PORT). None if the responder does not answer, or does not do that.

    Args:
        server: the responder. host: numeric, to bind to.

    Raises:
        OSError: a socket cannot be bound.
    """
    async with (
        client_on_fresh_socket(host, timing) as asking,
        client_on_fresh_socket(host, timing) as mapped,
    ):
        binding = await _try(mapped, server)
        if not isinstance(binding, Binding):
            return None
        await trio.sleep(idle)
        # Its own mapping is fresh, so whether the responder can do it is seen just before.
        own = await _try(asking, server)
        if not isinstance(own, Binding):
            return None
        proof = await _try(asking, server, response_port=own.mapped[1])
        if not isinstance(proof, Binding):
            return None
        return await _reflected(asking, server, mapped, binding.mapped[1], timing)
