"""Parameters are exchanged: `python examples/rpc_parameters.py`.

A parameter server and three trainers, each with data of its own. In each round a trainer gets the
parameters, into memory that it keeps (`out=`), takes a step of gradient descent on its data, and
hands in its gradients; the server waits for those of all, and applies their mean. The data never
leave the trainers, and together they find what made them.
"""

import numpy as np
import trio

from lattica import Node
from lattica.rpc import with_options

TRAINERS, ROUNDS, RATE = 3, 60, 0.5
FEATURES, EXAMPLES = 1000, 2000
TRUTH = {
    "weight": np.random.default_rng(0).normal(size=FEATURES).astype(np.float32),
    "bias": np.full(1, 0.25, np.float32),
}
Parameters = dict[str, np.ndarray]


class ParameterServer:
    def __init__(self) -> None:
        self.parameters = {name: np.zeros_like(array) for name, array in TRUTH.items()}
        self._gradients: list[Parameters] = []
        self._applied = trio.Event()

    async def get(self) -> list[np.ndarray]:
        return [*self.parameters.values()]

    async def apply(self, gradients: Parameters) -> None:
        """Returns when those of all trainers are applied."""
        self._gradients.append(gradients)
        applied = self._applied
        if len(self._gradients) == TRAINERS:
            for name, array in self.parameters.items():
                array -= RATE * np.mean([each[name] for each in self._gradients], axis=0)
            self._gradients.clear()
            self._applied = trio.Event()
            applied.set()
        await applied.wait()


async def train(server: ParameterServer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    targets = inputs @ TRUTH["weight"] + TRUTH["bias"]
    mine = {name: np.empty_like(array) for name, array in TRUTH.items()}
    for _ in range(ROUNDS):
        await with_options(server, out=[*mine.values()]).get()
        error = inputs @ mine["weight"] + mine["bias"] - targets
        await server.apply({"weight": inputs.T @ error / EXAMPLES, "bias": error.mean()[None]})


async def main() -> None:
    served = ParameterServer()
    async with Node() as node, trio.open_nursery() as nursery:
        node.rpc.serve(served)

        async def trainer(seed: int) -> None:
            async with Node() as own:
                await own.connect(node.addrs[0])
                await train(own.rpc.stub(node.peer_id, ParameterServer), seed)

        async with trio.open_nursery() as trainers:
            for seed in range(1, TRAINERS + 1):
                trainers.start_soon(trainer, seed)
        nursery.cancel_scope.cancel()
    for name, array in TRUTH.items():
        off = float(np.abs(served.parameters[name] - array).max())
        print(f"{name}: {array.size} parameters, at most {off:.1e} from the truth")
        assert off < 1e-2


trio.run(main)
