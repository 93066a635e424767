"""A stream of ours as the workloads want it, whatever the connection under it."""

from __future__ import annotations

from lattica.nat.mux.stream import Stream


class BenchStream:
    """:class:`trio_workloads.BenchStream` over one of ours."""

    def __init__(self, stream: Stream) -> None:
        self.send = stream.send_all
        self.receive_exactly = stream.receive_exactly
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._receive_view = stream.receive_view

    async def receive(self) -> int:
        return len(await self._receive_view())
