"""The programs of a scenario, as frozen dataclasses; `jobs` runs them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from tools.netlab.spec.strict import require, require_number

PLACEHOLDER = re.compile(r"\{(python|project|work|ip:[^}]+|ip6:[^}]+|addr:[^}]+|ticket:[^}]+)\}")
"""What is replaced in the arguments of a :class:`CommandProgram`."""


def listen_on(*ports: int) -> tuple[str, ...]:
    """Multiaddrs to listen on TCP and UDP ports of all addresses."""
    return tuple(
        f"/{family}/{transport}"
        for port in ports
        for transport in (f"tcp/{port}", f"udp/{port}/quic-v1/noise")
        for family in ("ip4/0.0.0.0", "ip6/::")
    )


@dataclass(frozen=True, slots=True)
class NodeProgram:
    """`lattica node`. Succeeds if it was connected to every program in `connect` in time.

    connect: programs whose addresses it is given (their own, and those that others observed).
        Where some of them are relays, it is given the others' addresses through these, too.
    stays: it must still be connected to them at the end, if they live.
    listen: multiaddrs.
    at_s: seconds after the start of the scenario; it also waits for those it connects to.
    timeout_s: time for the connections, from when it is ready. A relayed connection is given
        the rest of that time to become a direct one. What is not connected by then is waited for
        some minutes more: on a busy machine it is late, not wrong.
    env: added to its environment.
    """

    name: str
    host: str
    connect: tuple[str, ...] = ()
    stays: bool = True
    listen: tuple[str, ...] = listen_on(4001)
    at_s: float = 0.0
    timeout_s: float = 15.0
    env: tuple[tuple[str, str], ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        return self.connect


RELAY_LISTEN = tuple(
    f"/{family}/{port}"
    for family in ("ip4/0.0.0.0", "ip6/::")
    for port in ("tcp/4001", "udp/4001/quic-v1/noise", "udp/3478/quic-v1/noise", "tcp/443/ws")
)
"""Where a relay listens: STUN's own port, too, and the port that nearly all networks let out."""


@dataclass(frozen=True, slots=True)
class RelayProgram(NodeProgram):
    """`lattica relay`, for everybody. Succeeds as a node does: if it runs."""

    listen: tuple[str, ...] = RELAY_LISTEN


@dataclass(frozen=True, slots=True)
class PublishProgram:
    """`lattica publish` of random data. Succeeds if it prints its ticket and stays up; with
    relays, the ticket must lead through one of them.

    relays: through these it is reached behind a NAT.
    size_mib: all files together. files: how many.
    timeout_s: time for the ticket, beside the minute that every program has to start.
    """

    name: str
    host: str
    relays: tuple[str, ...] = ()
    size_mib: float = 8.0
    files: int = 1
    listen: tuple[str, ...] = listen_on(4002)
    at_s: float = 0.0
    timeout_s: float = 30.0
    env: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        require_number(self.size_mib, "size_mib", high=1 << 20)
        require_number(self.files, "files", low=1, high=10_000)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.relays


@dataclass(frozen=True, slots=True)
class FetchProgram:
    """`lattica fetch` of what `source` publishes. Succeeds if the bytes are identical. The relays
    it may need are in the ticket.

    timeout_s: time for all of it.
    """

    name: str
    host: str
    source: str
    at_s: float = 0.0
    timeout_s: float = 240.0
    env: tuple[tuple[str, str], ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True, slots=True)
class CommandProgram:
    """Any program. Succeeds if it exits with `exit_code`, or stays up if that is None (in a file:
    "none").

    argv: `{python}`, `{project}` (the checkout), `{work}` (a folder of its own), `{ip:NODE}` (a
        node's IPv4 address as the internet sees it), `{ip6:NODE}` and, of programs in `after`,
        `{addr:PROGRAM}` and `{ticket:PROGRAM}` are replaced.
    ready: the JSON event on its standard output that makes it ready; None: once it runs.
    after: programs that must be ready (or, if they end by themselves, have ended) before.
    """

    name: str
    host: str
    argv: tuple[str, ...]
    exit_code: int | None = 0
    ready: str | None = None
    after: tuple[str, ...] = ()
    at_s: float = 0.0
    timeout_s: float = 240.0
    env: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.argv), "argv", "expected a program and its arguments")

    @property
    def needs(self) -> tuple[str, ...]:
        return self.after

    @property
    def placeholders(self) -> tuple[tuple[str, str], ...]:
        """Those in `argv`: kind and name (empty where the kind has none)."""
        found = [text for argument in self.argv for text in PLACEHOLDER.findall(argument)]
        return tuple((text.partition(":")[0], text.partition(":")[2]) for text in found)


Program: TypeAlias = NodeProgram | RelayProgram | PublishProgram | FetchProgram | CommandProgram
PROGRAMS: dict[str, type[Program]] = {
    "node": NodeProgram,
    "relay": RelayProgram,
    "publish": PublishProgram,
    "fetch": FetchProgram,
    "command": CommandProgram,
}
