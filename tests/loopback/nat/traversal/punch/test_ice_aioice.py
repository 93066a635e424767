"""Our ICE agent against aioice's, over the loopback interface, in both roles."""

from __future__ import annotations

import asyncio
import os
from typing import cast

import aioice
import aioice.ice
import pytest

from lattica.nat.traversal.punch.ice.agent import Credentials, Failed, IceAgent, Nominated
from lattica.nat.traversal.punch.ice.candidates import CandidateType, TargetPolicy, local_candidate
from lattica.nat.traversal.punch.ice.config import IceConfig
from lattica.nat.traversal.punch.ice.messages import new_credentials

HOST = "127.0.0.1"
POLICY = TargetPolicy(allow_loopback=True)


class OurSide(asyncio.DatagramProtocol):
    """An agent on a socket of asyncio's."""

    def __init__(self) -> None:
        self.agent: IceAgent | None = None
        self.outcome: asyncio.Future[Nominated | Failed] = asyncio.Future()
        self.data: asyncio.Future[bytes] = asyncio.Future()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.address: tuple[str, int] = transport.get_extra_info("sockname")

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if data[0] & 0xC0:
            self.data.set_result(data)
            return
        assert self.agent is not None
        self.agent.receive(data, 0, addr)
        self.step()

    def step(self) -> None:
        agent = self.agent
        assert agent is not None
        for outgoing in agent.datagrams_to_send():
            self.transport.sendto(outgoing.data, outgoing.destination)
        for event in agent.events():
            if isinstance(event, Nominated | Failed):
                self.outcome.set_result(event)
        if self._timer is not None:
            self._timer.cancel()
        if (due := agent.next_timer()) is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        assert self.agent is not None
        self.agent.on_timer()
        self.step()


async def connect(*, controlling: bool, theirs_controlling: bool, late: bool) -> None:
    loop = asyncio.get_running_loop()
    transport, ours = await loop.create_datagram_endpoint(OurSide, local_addr=(HOST, 0))
    theirs = aioice.Connection(ice_controlling=theirs_controlling)
    try:
        own = new_credentials(os.urandom)
        candidate = local_candidate(CandidateType.HOST, *ours.address, base=0, rank=0)
        theirs.remote_username, theirs.remote_password = own.ufrag, own.password
        await theirs.gather_candidates()
        sdp = (
            f"{candidate.foundation} 1 udp {candidate.priority} "
            f"{candidate.host} {candidate.port} typ host"
        )
        await theirs.add_remote_candidate(aioice.Candidate.from_sdp(sdp))
        await theirs.add_remote_candidate(None)
        remote = [
            local_candidate(CandidateType.HOST, one.host, one.port, base=0, rank=rank)
            for rank, one in enumerate(theirs.local_candidates)
        ]
        ours.agent = IceAgent(
            [candidate],
            POLICY.choose(remote),
            own=own,
            peer=Credentials(theirs.local_username, theirs.local_password),
            controlling=controlling,
            policy=POLICY,
            clock=loop.time,
            random_bytes=os.urandom,
            config=IceConfig(),
        )
        if not late:
            ours.agent.start()
            ours.step()
        connecting = asyncio.create_task(theirs.connect())
        if late:
            await asyncio.sleep(0)  # its first checks are answered before we begin
            ours.agent.start()
            ours.step()
        await connecting
        outcome = await ours.outcome
        assert outcome == Nominated(0, remote[0].address)

        await theirs.send(b"\xffhello")
        assert await ours.data == b"\xffhello"
        ours.transport.sendto(b"\xffhi", remote[0].address)
        assert await theirs.recv() == b"\xffhi"
    finally:
        await theirs.close()
        transport.close()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("controlling", "theirs_controlling"),
    [(True, False), (False, True), (True, True), (False, False)],
)
def test_a_pair_is_found_and_carries_data(monkeypatch, controlling, theirs_controlling, late):
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda **_: [HOST])

    async def main() -> None:
        await asyncio.wait_for(
            connect(controlling=controlling, theirs_controlling=theirs_controlling, late=late), 30
        )

    asyncio.run(main())
