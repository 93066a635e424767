"""Decides which port is mapped by which method, when that is renewed, and what when it fails.

A pure core for one address family: what to do comes out of :meth:`PortMappingCore.poll` as
commands, how it went goes in, and :attr:`PortMappingCore.next_timer` says when to call again.

All methods are looked for at once; looking changes nothing at the router. The first to be found
gets the ports; a port that it refuses goes to the next. (All of them speak to the same router, and
mostly to the same table in it, so that asking all for the same port would mean conflicts with
ourselves.) A method does one thing at a time. Of the two transports of one port number UDP
goes first, and TCP is wished at the external port that UDP got.

Source for renewals: RFC 6887 section 11.2.1, RFC 6886 section 3.3.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from lattica.nat.base.limits.backoff import pause_after
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.traversal.portmap.commands import (
    Check,
    Command,
    Mapped,
    MethodState,
    MethodStatus,
    PortEvent,
    Remove,
    Request,
    Search,
    Unmapped,
)
from lattica.nat.traversal.portmap.mapping import (
    PASSING,
    Grant,
    Mapping,
    Method,
    Port,
    PortMappingError,
    Reason,
    why_useless,
)

FIRST_SEARCH_AGAIN = 60.0
"""Seconds after the first search that finds nothing."""
LAST_SEARCH_AGAIN = 3600.0
"""Seconds at most: a network without such a router is asked ever more rarely, until it changes."""
FIRST_RETRY = 30.0
"""Seconds after the first refusal."""
LAST_RETRY = 1800.0
"""Seconds after a refusal at most."""
MIN_RENEWAL = 4.0
"""Seconds between two attempts to renew, RFC 6887 section 11.2.1."""
MAX_PORTS = 32


class _Phase(Enum):
    UNKNOWN = auto()
    FOUND = auto()
    ABSENT = auto()


@dataclass(slots=True)
class _MethodRecord:
    """A method, as things are."""

    phase: _Phase = _Phase.UNKNOWN
    busy: Command | None = None
    check_at: float = 0.0
    asked_at: float = -math.inf
    """When it was last found or checked."""
    error: PortMappingError | None = None


@dataclass(slots=True)
class _Held:
    """A mapping with its times."""

    mapping: Mapping
    made_at: float
    expires_at: float | None
    renew_at: float
    is_doubtful: bool = False
    """The router has lost its state since the mapping was made."""


@dataclass(slots=True)
class _Wanted:
    """A port that should be mapped."""

    held: _Held | None = None
    retry_at: dict[Method, float] = field(default_factory=dict)
    """Not before this with a method that has refused."""
    failures: dict[Method, int] = field(default_factory=dict)
    external_port: int = 0
    """Where it was the last time: wished again."""


class PortMappingCore:
    """See the module.

    Args:
        methods: those to use, the best first.
        lifetime_s: what to ask for.
        check_s: seconds between two looks whether the router has lost its state.
        rng: spreads the attempts of many nodes in time.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        *,
        lifetime_s: int,
        check_s: float,
        rng: random.Random,
    ) -> None:
        self._lifetime_s = lifetime_s
        self._check_s = check_s
        self._rng = rng
        self._methods = tuple(methods)
        self._records = {method: _MethodRecord() for method in methods}
        self._wanted: dict[Port, _Wanted] = {}
        self._generation = 0
        self._search_at = -math.inf
        self._searched_at = -math.inf
        self._fruitless = 0
        """Searches in a row that found nothing."""
        self._events: list[PortEvent] = []

    # --- what the owner says ---

    def set_ports(self, ports: Iterable[Port]) -> list[Remove]:
        """These should be mapped from now on, at most 32; what to remove of the others."""
        wanted = sorted(set(ports), key=lambda port: (port.number, -port.transport))[:MAX_PORTS]
        gone = [port for port in self._wanted if port not in wanted]
        removals = []
        for port in gone:
            held = self._wanted.pop(port).held
            if held is not None:
                removals.append(_removal(held.mapping))
                self._events.append(Unmapped(held.mapping, "not listening there any more"))
        for port in wanted:
            self._wanted.setdefault(port, _Wanted())
        return removals

    def network_changed(self) -> None:
        """All is forgotten and begins anew; the routers of the old network are out of reach."""
        self._generation += 1
        for method in self._methods:
            self._records[method] = _MethodRecord()
        for port, wanted in self._wanted.items():
            if wanted.held is not None:
                self._events.append(Unmapped(wanted.held.mapping, "the network has changed"))
            self._wanted[port] = _Wanted(external_port=wanted.external_port)
        self._search_at = -math.inf
        self._fruitless = 0

    def state_lost(self, now: float) -> None:
        """The router has told everybody that it has restarted: look now, not when it is time."""
        for record in self._records.values():
            if record.phase is _Phase.FOUND:
                record.check_at = max(now, record.asked_at + MIN_RENEWAL)
        if all(record.phase is _Phase.ABSENT for record in self._records.values()):
            self._search_at = max(now, self._searched_at + MIN_RENEWAL)

    def shut_down(self) -> list[Remove]:
        """What to remove before leaving: mappings, and those whose answer has not come yet."""
        found = [
            _removal(wanted.held.mapping)
            for wanted in self._wanted.values()
            if wanted.held is not None
        ]
        for record in self._records.values():
            if isinstance(record.busy, Request):
                found.append(Remove(record.busy.method, record.busy.port, record.busy.wished_port))
        return list(dict.fromkeys(found))

    # --- what there is ---

    @property
    def mappings(self) -> tuple[Mapping, ...]:
        """All that stand, as far as is known."""
        return tuple(
            wanted.held.mapping for wanted in self._wanted.values() if wanted.held is not None
        )

    @property
    def statuses(self) -> tuple[MethodStatus, ...]:
        return tuple(self._status(method) for method in self._methods)

    def _status(self, method: Method) -> MethodStatus:
        record = self._records[method]
        states = {
            _Phase.UNKNOWN: MethodState.SEARCHING,
            _Phase.FOUND: MethodState.FOUND,
            _Phase.ABSENT: MethodState.ABSENT,
        }
        error = record.error
        return MethodStatus(
            method,
            states[record.phase],
            None if error is None else error.reason,
            "" if error is None else error.detail,
        )

    def is_settled(self, now: float) -> bool:
        """Whether nothing is being found out that may soon map a port that is not mapped."""
        if all(wanted.held is not None for wanted in self._wanted.values()):
            return True
        if any(isinstance(record.busy, Search | Request) for record in self._records.values()):
            return False
        if self._search_is_needed():
            return now < self._search_at
        return all(
            self._first_request(now, method) is None
            for method, record in self._records.items()
            if record.phase is _Phase.FOUND
        )

    def take_events(self) -> list[PortEvent]:
        events, self._events = self._events, []
        return events

    # --- what to do ---

    def poll(self, now: float) -> list[Command]:
        """What is to be done now. Call it after every input, and at `next_timer`."""
        self._expire(now)
        commands: list[Command] = []
        if self._wanted:
            commands += self._searches(now)
            for method in self._methods:
                record = self._records[method]
                if record.phase is not _Phase.FOUND or record.busy is not None:
                    continue
                command: Command | None = (
                    self._renewal(now, method)
                    or self._first_request(now, method)
                    or self._check(now, method)
                )
                if command is not None:
                    record.busy = command
                    commands.append(command)
        return commands

    @property
    def next_timer(self) -> float | None:
        """When :meth:`poll` has something to do that no input brings; None if never."""
        if not self._wanted:
            return None
        times = []
        if self._search_is_needed():
            times.append(self._search_at)
        for method, record in self._records.items():
            if record.phase is not _Phase.FOUND or record.busy is not None:
                continue
            if self._of(method):
                times.append(record.check_at)
        pending = self._pending()
        for port, wanted in self._wanted.items():
            if wanted.held is not None:
                if wanted.held.expires_at is not None:
                    times.append(wanted.held.expires_at)
                if self._records[wanted.held.mapping.method].busy is None:
                    times.append(wanted.held.renew_at)
            elif port.number not in pending:
                other = self._method_of_twin(port)
                for method, at in wanted.retry_at.items():
                    other_at = math.inf if other is None else wanted.retry_at.get(other, -math.inf)
                    if other is not method and other_at <= at:
                        continue  # then it is that method's turn
                    record = self._records[method]
                    if record.phase is _Phase.FOUND and record.busy is None:
                        times.append(at)
        return min(times, default=None)

    def _search_is_needed(self) -> bool:
        """No method has been found, and none is being looked for."""
        return all(
            record.phase is not _Phase.FOUND and record.busy is None
            for record in self._records.values()
        )

    def _searches(self, now: float) -> list[Command]:
        if not self._records or not self._search_is_needed() or now < self._search_at:
            return []
        if all(record.phase is _Phase.ABSENT for record in self._records.values()):
            self._fruitless += 1
        self._searched_at = now
        self._search_at = now + pause_after(
            self._fruitless + 1, FIRST_SEARCH_AGAIN, LAST_SEARCH_AGAIN, self._rng
        )
        commands: list[Command] = []
        for method, record in self._records.items():
            record.busy = Search(method, self._generation)
            commands.append(record.busy)
        return commands

    def _of(self, method: Method) -> list[_Held]:
        return [
            wanted.held
            for wanted in self._wanted.values()
            if wanted.held is not None and wanted.held.mapping.method is method
        ]

    def _renewal(self, now: float, method: Method) -> Request | None:
        due = [held for held in self._of(method) if held.renew_at <= now]
        if not due:
            return None
        mapping = min(due, key=lambda held: held.renew_at).mapping
        return Request(
            method,
            self._generation,
            mapping.port,
            mapping.external_port,
            mapping.external_ip,
            self._lifetime_s,
        )

    def _first_request(self, now: float, method: Method) -> Request | None:
        pending = self._pending()
        for port, wanted in self._wanted.items():
            if wanted.held is not None or not self._may(now, port, method):
                continue
            if port.number in pending:
                continue  # itself, or its twin, whose external port will be known soon
            other = self._method_of_twin(port)
            if other is not None and other is not method and self._may(now, port, other):
                continue  # routers have been seen to mix up what comes by two methods
            return Request(
                method,
                self._generation,
                port,
                self._wish(port),
                None,
                self._lifetime_s,
            )
        return None

    def _pending(self) -> set[int]:
        """Numbers of the ports that are being requested or renewed."""
        busy = [record.busy for record in self._records.values()]
        return {command.port.number for command in busy if isinstance(command, Request)}

    def _may(self, now: float, port: Port, method: Method) -> bool:
        return self._wanted[port].retry_at.get(method, now) <= now

    def _method_of_twin(self, port: Port) -> Method | None:
        """How the same number is mapped for the other transport."""
        for twin, wanted in self._wanted.items():
            if twin.number == port.number and twin != port and wanted.held is not None:
                return wanted.held.mapping.method
        return None

    def _wish(self, port: Port) -> int:
        """The external port of its twin, or the one it had, or its own."""
        for other, wanted in self._wanted.items():
            if other.number == port.number and other != port and wanted.held is not None:
                return wanted.held.mapping.external_port
        return self._wanted[port].external_port or port.number

    def _check(self, now: float, method: Method) -> Check | None:
        held = self._of(method)
        if not held or self._records[method].check_at > now:
            return None
        return Check(method, self._generation, tuple(one.mapping for one in held))

    def _expire(self, now: float) -> None:
        for wanted in self._wanted.values():
            held = wanted.held
            if held is not None and held.expires_at is not None and held.expires_at <= now:
                self._drop(wanted, "its time is over and it could not be renewed")

    def _drop(self, wanted: _Wanted, why: str) -> None:
        if wanted.held is not None:
            self._events.append(Unmapped(wanted.held.mapping, why))
            wanted.external_port = wanted.held.mapping.external_port
            wanted.held = None

    # --- how it went ---

    def _finish(self, command: Command) -> _MethodRecord | None:
        """The command's method, now free; None for a command of the network before."""
        record = self._records.get(command.method)
        if record is None or record.busy != command or command.generation != self._generation:
            return None
        record.busy = None
        return record

    def found(self, now: float, command: Search) -> None:
        """The method works here."""
        record = self._finish(command)
        if record is None:
            return
        record.phase, record.error = _Phase.FOUND, None
        record.check_at, record.asked_at = now + self._check_s, now
        self._fruitless = 0

    def granted(self, now: float, command: Request, grant: Grant) -> list[Remove]:
        """The mapping stands. What to remove: it may have come too late to be wanted."""
        record = self._finish(command)
        port = command.port
        new = Mapping(
            port,
            command.method,
            grant.external_ip,
            grant.external_port,
            why_useless(grant.external_ip),
        )
        wanted = self._wanted.get(port)
        if record is None:
            return []
        if wanted is None:
            return [_removal(new)]
        record.error = None
        old = None if wanted.held is None else wanted.held.mapping
        lifetime = grant.lifetime_s
        if lifetime is not None:
            lifetime = max(lifetime, 2 * MIN_RENEWAL)
        wanted.held = _Held(
            new,
            now,
            None if lifetime is None else now + lifetime,
            now + max(MIN_RENEWAL, (lifetime or self._lifetime_s) / 2),
        )
        wanted.external_port = new.external_port
        wanted.retry_at.clear()
        wanted.failures.clear()
        if old != new:
            self._events.append(Mapped(new))
        self._address_seen(now, command.method, grant.external_ip)
        return []

    def checked(
        self, now: float, command: Check, *, state_lost: bool, external_ip: IpAddress | None = None
    ) -> None:
        """The router answered: whether it has lost its state, and its address if it told."""
        record = self._finish(command)
        if record is None:
            return
        record.check_at, record.asked_at = now + self._check_s, now
        if state_lost:
            for held in self._of(command.method):
                held.renew_at = max(now, held.made_at + MIN_RENEWAL)
                held.is_doubtful = True
        if external_ip is not None:
            self._address_seen(now, command.method, external_ip)

    def _address_seen(self, now: float, method: Method, external_ip: IpAddress) -> None:
        for wanted in self._wanted.values():
            held = wanted.held
            if held is None or held.mapping.method is not method:
                continue
            if held.mapping.external_ip != external_ip:
                held.mapping = replace(
                    held.mapping, external_ip=external_ip, useless=why_useless(external_ip)
                )
                held.renew_at = min(held.renew_at, max(now, held.made_at + MIN_RENEWAL))
                self._events.append(Mapped(held.mapping))

    def failed(self, now: float, command: Command, error: PortMappingError) -> None:
        """It did not work."""
        record = self._finish(command)
        if record is None:
            return
        record.error = error
        match command:
            case Search():
                record.phase = _Phase.ABSENT
            case Check():
                record.check_at, record.asked_at = now + self._check_s, now
                if error.reason is Reason.PORT_CLOSED:
                    # The program that held our mappings is gone, and so are they.
                    self._vanish(now, command.method, str(error))
            case Request():
                self._request_failed(now, command, error)

    def _vanish(self, now: float, method: Method, why: str) -> None:
        self._records[method].phase = _Phase.ABSENT
        for wanted in self._wanted.values():
            if wanted.held is not None and wanted.held.mapping.method is method:
                self._drop(wanted, why)
        # The router may be back soon, and other methods may have been absent for the same reason.
        self._search_at = max(now, self._searched_at) + MIN_RENEWAL

    def _request_failed(self, now: float, command: Request, error: PortMappingError) -> None:
        wanted = self._wanted.get(command.port)
        if error.reason is Reason.PORT_CLOSED:
            self._vanish(now, command.method, str(error))
        if wanted is None:
            return
        held = wanted.held
        if held is not None and held.mapping.method is command.method:
            if error.reason in PASSING and not held.is_doubtful:
                # Half of what is left each time, RFC 6887 section 11.2.1.
                left = self._lifetime_s if held.expires_at is None else held.expires_at - now
                held.renew_at = now + max(MIN_RENEWAL, left / 2)
                return
            self._drop(wanted, str(error))
        failures = wanted.failures[command.method] = wanted.failures.get(command.method, 0) + 1
        pause = pause_after(failures, FIRST_RETRY, LAST_RETRY, self._rng)
        if error.retry_after_s is not None:
            pause = max(pause, min(error.retry_after_s, LAST_RETRY))
        wanted.retry_at[command.method] = now + pause


def _removal(mapping: Mapping) -> Remove:
    return Remove(mapping.method, mapping.port, mapping.external_port)
