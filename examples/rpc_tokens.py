"""Tokens as they are made: `python examples/rpc_tokens.py`.

The caller gets each token when it is there, and stops reading after the tenth: the generator on the
other peer then ends too, by its `finally`. Here it is a plain generator, which runs in a thread; an
async one would run in the node's loop.
"""

from collections.abc import Iterator

import trio

from lattica import Node

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
freed = trio.Event()


class Model:
    def generate(self, prompt: str, most: int = 1000) -> Iterator[str]:
        try:
            for number in range(most):
                yield WORDS[(len(prompt) + number) % len(WORDS)]
        finally:
            trio.from_thread.run_sync(freed.set)  # where a model gives back its cache


async def main() -> None:
    async with Node() as server, Node() as client:
        server.rpc.serve(Model())
        await client.connect(server.addrs[0])
        # Without its class: the name of the service is enough.
        model = client.rpc.stub(server.peer_id, "Model")
        tokens: list[str] = []
        async with model.generate("Tell me of the fox", most=100_000).stream() as stream:
            async for token in stream:
                tokens.append(token)
                print(token, end=" ", flush=True)
                if len(tokens) == 10:
                    break
        print()
        assert tokens == [WORDS[(18 + number) % len(WORDS)] for number in range(10)]
        with trio.fail_after(10):
            await freed.wait()


trio.run(main)
