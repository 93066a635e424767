"""A service, and a call of it from another peer: `python examples/rpc_echo.py`."""

import trio

from lattica import Node


class Echo:
    async def shout(self, text: str) -> str:
        return text.upper()


async def main() -> None:
    async with Node() as server, Node() as client:
        server.rpc.serve(Echo())
        await client.connect(server.addrs[0])
        answer = await client.rpc.stub(server.peer_id, Echo).shout("hello")
        assert answer == "HELLO"
        print(answer)


trio.run(main)
