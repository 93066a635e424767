"""Channels of weights between nodes on loopback: what travels, who helps, who is believed."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio

from lattica import AsyncLattica, Lattica, Node
from lattica.config import load_config
from lattica.content import RawTensor, WeightOptions, WeightPublisher, WeightSubscriber
from lattica.errors import LocalProtocolError
from lattica.facades.weights.vllm import LatticaTrainerEngine, LatticaWeightTransferEngine

CONFIG = load_config(
    environment={},
    overrides={"listen": ["/ip4/127.0.0.1/tcp/0"], "nat.port_mapping.enabled": False},
)
LAYERS = 24
ELEMENTS = 1 << 17


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"layers.{n}": rng.integers(0, 1 << 16, ELEMENTS, np.uint16) for n in range(LAYERS)}


def bf16(state: dict[str, np.ndarray]) -> dict[str, RawTensor]:
    return {
        name: RawTensor("BF16", array.shape, array.data.cast("B")) for name, array in state.items()
    }


def step(state: dict[str, np.ndarray], share: float, seed: int) -> None:
    """Change so many of all elements a little."""
    rng = np.random.default_rng(seed)
    for array in state.values():
        where = rng.choice(array.size, int(array.size * share), replace=False)
        array[where] ^= rng.integers(1, 4, len(where), np.uint16)


def is_same(version, state: dict[str, np.ndarray]) -> bool:
    return {n: bytes(raw.data) for n, raw in version.raw().items()} == {
        name: array.tobytes() for name, array in state.items()
    }


async def test_what_travels_is_what_has_changed_and_the_source_sends_it_about_once():
    state = weights()
    async with Node(CONFIG) as trainer, Node(CONFIG) as one, Node(CONFIG) as two:
        for node in (one, two):
            await node.connect(trainer.addrs[0])
        async with (
            WeightPublisher(trainer, "policy") as publisher,
            WeightSubscriber(one, publisher.channel) as first,
            WeightSubscriber(two, str(publisher.channel)) as second,
        ):
            pushed = await publisher.push(bf16(state))
            assert (pushed.version, pushed.delta_size) == (1, None)
            for weights_ in (first, second):
                version = await weights_.wait()
                assert version.version == 1
                assert is_same(version, state)
            # One layer of 24.
            state["layers.7"] = weights(9)["layers.7"]
            assert (await publisher.push(bf16(state))).delta_size is None
            for weights_ in (first, second):
                version = await weights_.wait(1)
                assert version.bytes_fetched <= 1.1 * state["layers.7"].nbytes
                assert is_same(version, state)
            # A hundredth of everything.
            for number in (3, 4):
                step(state, 0.01, number)
                pushed = await publisher.push(bf16(state))
                assert pushed.version == number
                assert pushed.delta_size is not None
                assert pushed.delta_size * 20 <= pushed.size
                for weights_ in (first, second):
                    version = await weights_.wait(number - 1)
                    assert version.bytes_fetched * 20 <= version.size
                    assert is_same(version, state)
            with pytest.raises(LocalProtocolError, match="not newer"):
                await publisher.push(bf16(state), version=4)
            version = await second.wait(3)
            # Only what is kept lies on the disk; the rest is removed once the newest is there.
            while len(list(version.path.parent.parent.glob("*/*.safetensors"))) != 2:
                await trio.sleep(0.01)
            # The same again is a version, too, and costs nothing.
            await publisher.push(bf16(state), version=10)
            assert (await first.wait(4)).bytes_fetched == 0
        with pytest.raises(LocalProtocolError):
            await first.wait(10)
        assert is_same(version, state)  # of a file that is gone


async def test_who_joins_late_or_was_away_gets_the_newest_by_the_shortest_way(tmp_path):
    """Also from those who have it, without the publisher."""
    state = weights()
    options = WeightOptions(announce_every=3600.0)
    async with Node(CONFIG) as trainer, Node(CONFIG) as one, Node(CONFIG) as late:
        await one.connect(trainer.addrs[0])
        async with WeightSubscriber(one, f"{trainer.peer_id}/p") as first:
            async with WeightPublisher(trainer, "p", options) as publisher:
                for number in range(1, 4):
                    step(state, 0.01, number)
                    await publisher.push(bf16(state))
                    await first.wait(number - 1)
                await late.connect(trainer.addrs[0])
                mine = WeightOptions(directory=tmp_path)
                async with WeightSubscriber(late, publisher.channel, mine) as second:
                    assert (await second.wait()).version == 3
                # Three steps behind: three deltas, or what of these is not made anew.
                async with WeightSubscriber(late, publisher.channel) as second:
                    assert is_same(await second.wait(), state)
                    await late.disconnect(trainer.peer_id)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(second.wait, 6)
                        for number in range(4, 8):
                            step(state, 0.01, number)
                            await publisher.push(bf16(state))
                        await first.wait(6)
                        await late.connect(trainer.addrs[0])
                    version = second.newest
                    assert version is not None
                    assert is_same(version, state)
            # The publisher serves no more, and one who follows the channel does.
            await late.disconnect(trainer.peer_id)
            await late.connect(one.addrs[0])
            async with WeightSubscriber(late, publisher.channel) as third:
                assert is_same(await third.wait(), state)


async def test_a_callback_and_an_iterator_skip_to_the_newest():
    state = weights()
    begun, go = trio.Event(), trio.Event()
    seen: list[int] = []

    async def slow(version) -> None:
        seen.append(version.version)
        begun.set()
        await go.wait()

    async with Node(CONFIG) as trainer, Node(CONFIG) as one:
        await one.connect(trainer.addrs[0])
        async with (
            WeightPublisher(trainer, "p") as publisher,
            WeightSubscriber(one, publisher.channel, on_version=slow) as followed,
        ):
            await publisher.push(bf16(state))
            async for version in followed:
                assert version.version == 1
                break
            await begun.wait()
            for number in range(2, 5):
                step(state, 0.01, number)
                await publisher.push(bf16(state))
                await followed.wait(number - 1)
            async for version in followed:
                assert version.version == 4
                break
            go.set()
            while seen[-1] != 4:
                await trio.sleep(0.01)
            assert seen == [1, 4]


async def test_what_others_say_on_the_topic_is_not_believed():
    state = weights()
    async with Node(CONFIG) as trainer, Node(CONFIG) as one, Node(CONFIG) as liar:
        await one.connect(trainer.addrs[0])
        await one.connect(liar.addrs[0])
        async with (
            WeightPublisher(trainer, "p") as publisher,
            WeightPublisher(liar, "p") as other,
            WeightSubscriber(one, publisher.channel) as followed,
        ):
            await other.push({"lie": np.zeros(4)})
            topic = liar.topic(publisher.channel.topic)
            await topic.wait_peers()
            for data in (b"", b"x" * 1000, other._announcement):
                await topic.publish(data)
            await publisher.push(bf16(state))
            assert is_same(await followed.wait(), state)


class Model:
    def __init__(self) -> None:
        self.loaded: dict[str, np.ndarray] = {}

    def load_weights(self, tensors) -> None:
        self.loaded.update((name, np.array(array)) for name, array in tensors)


class StandIn:
    """Calls an engine as vLLM's worker does: requests are dicts."""

    def __init__(self, engine: LatticaWeightTransferEngine) -> None:
        self.engine = engine

    def init_weight_transfer_engine(self, init_info) -> None:
        self.engine.init_transfer_engine(self.engine.parse_init_info(init_info))

    def start_weight_update(self) -> None:
        self.engine.start_weight_update()

    def update_weights(self, update_info) -> None:
        self.engine.update_weights(update_info | {"timeout": 60})

    def finish_weight_update(self) -> None:
        self.engine.finish_weight_update()


def test_threads_and_the_engine_of_vllm():
    state: dict[str, Any] = {"a": np.arange(8, dtype=np.float32), "b": np.ones((2, 2), np.float16)}
    model = Model()
    config = SimpleNamespace(parallel_config=None, model_config=None)
    got: list[int] = []
    called = threading.Event()

    def on_version(version) -> None:
        got.append(version.version)
        called.set()

    with Lattica(CONFIG) as trainer, Lattica(CONFIG) as worker, Lattica(CONFIG) as other:
        other.connect(trainer.addrs[0])
        with (
            trainer.publish_weights("policy") as publisher,
            other.follow_weights(publisher.channel, on_version=on_version) as weights_,
        ):
            engine = LatticaWeightTransferEngine(None, config, None, model, lattica=worker)
            for wrong in ({"chanel": "x"}, {}):
                with pytest.raises(ValueError, match="Info"):
                    engine.parse_init_info(wrong)
            info = SimpleNamespace(rank=0, addrs=trainer.addrs)
            sender = LatticaTrainerEngine.trainer_init(
                publisher, info, client=StandIn(engine), source=state.items()
            )
            for _ in range(2):
                sender.send_weights()
                assert model.loaded.keys() == state.keys()
                for name, array in state.items():
                    np.testing.assert_array_equal(model.loaded[name], array)
                state["a"] += 1
            # The older form: a static method, and a function that loads.
            LatticaWeightTransferEngine.trainer_send_weights(
                iter(state.items()), {"publisher": publisher, "version": 7}
            )
            loaded: dict[str, np.ndarray] = {}
            engine.receive_weights(
                engine.parse_update_info({"timeout": 60}), lambda tensors: loaded.update(tensors)
            )
            np.testing.assert_array_equal(loaded["a"], state["a"])
            assert engine.version == 7
            with pytest.raises(TimeoutError):
                engine.receive_weights(engine.parse_update_info({"timeout": 0.01}))
            assert weights_.wait(2, timeout=60).version == 7
            assert called.wait(60)
            newest = weights_.newest
            assert newest is not None
            assert next(weights_).version == 7
            mine = {"a": np.zeros(8, np.float32)}
            newest.load_into(mine)
            np.testing.assert_array_equal(mine["a"], state["a"])
            engine.shutdown()
            engine.shutdown()
        with pytest.raises(LocalProtocolError):
            publisher.push(state)
        with pytest.raises(LocalProtocolError):
            weights_.wait(timeout=10)


def test_asyncio():
    async def main() -> None:
        async with AsyncLattica(CONFIG) as trainer, AsyncLattica(CONFIG) as one:
            await one.connect((await trainer.addrs())[0])
            async with (
                trainer.publish_weights("policy") as publisher,
                one.follow_weights(publisher.channel) as weights_,
            ):
                state = {"a": np.arange(8, dtype=np.float32)}
                await publisher.push(state)
                async for version in weights_:
                    np.testing.assert_array_equal(version.numpy()["a"], state["a"])
                    break
                await publisher.push({"a": state["a"] + 1}, version=5)
                assert (await weights_.wait(1, timeout=60)).version == 5
                newest = await weights_.newest()
                assert newest is not None
                assert newest.version == 5
            with pytest.raises(LocalProtocolError):
                await publisher.push(state)

    asyncio.run(main())
