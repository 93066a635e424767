"""Weights for vLLM: its engine for transferring weights, on a channel.

vLLM asks an engine in each of its workers to take new weights from a trainer
(`vllm/distributed/weight_transfer/base.py`); this one follows a channel. It has the methods of
`WeightTransferEngine` and needs nothing of vLLM, which takes it by its name::

    WeightTransferEngineFactory.register_engine(
        "lattica", "lattica.facades.weights.vllm", "LatticaWeightTransferEngine"
    )

Where vLLM is there, layerwise reloading brackets an update, as with its own engines that receive
weights in the format of checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lattica.content.weights.options import WeightOptions, WeightVersion
from lattica.facades.blocking import Lattica
from lattica.facades.weights.blocking import BlockingWeightPublisher, BlockingWeightSubscriber
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.encoding.arrays import loaded

T = TypeVar("T")
LoadWeights = Callable[[list[tuple[str, Any]]], object]


@dataclass
class LatticaInitInfo:
    """How a worker finds its channel."""

    channel: str
    """`PEER/NAME`."""
    addrs: list[str] = field(default_factory=list)
    """Addresses of the trainer, or of anybody who follows the channel, to connect to."""
    directory: str | None = None
    """Where versions lie; None: a temporary directory."""


@dataclass
class LatticaUpdateInfo:
    """Which version a worker is to take."""

    version: int | None = None
    """At least this one; None: one that is newer than the last."""
    timeout: float | None = None
    """Seconds to wait for it; None: no limit."""


class LatticaWeightTransferEngine:
    """`WeightTransferEngine` of vLLM, in a worker. `lattica` is the node to use; by default it
    makes one of its own when it is initialized, by the configuration of the environment.
    """

    init_info_cls = LatticaInitInfo
    update_info_cls = LatticaUpdateInfo
    supports_draft_weight_update = True

    def __init__(
        self,
        config: Any,
        vllm_config: Any,
        device: Any = None,
        model: Any = None,
        *,
        lattica: Lattica | None = None,
    ) -> None:
        self.config = config
        self.vllm_config = vllm_config
        self.parallel_config = getattr(vllm_config, "parallel_config", vllm_config)
        self.model_config = getattr(vllm_config, "model_config", None)
        self.device = device
        self.model = model
        self._default = (model, self.model_config)
        self._lattica = lattica
        self._own: Lattica | None = None
        self._weights: BlockingWeightSubscriber | None = None
        self._updating = False
        self.version = -1
        """That the model has."""

    # --- which model ---

    def set_weight_update_target(self, model: Any, model_config: Any) -> None:
        """The model that the next update is for."""
        self.model, self.model_config = model, model_config

    def reset_weight_update_target(self) -> None:
        """The engine's own model again."""
        self.model, self.model_config = self._default

    # --- what requests say ---

    def parse_init_info(self, init_dict: dict[str, Any]) -> LatticaInitInfo:
        """Read a request to initialize; raises ValueError."""
        return _parse(LatticaInitInfo, init_dict)

    def parse_update_info(self, update_dict: dict[str, Any]) -> LatticaUpdateInfo:
        """Read a request to update; raises ValueError."""
        return _parse(LatticaUpdateInfo, update_dict)

    # --- in vLLM's order ---

    def init_transfer_engine(self, init_info: LatticaInitInfo) -> None:
        """Begin to follow the channel. Raises what `Lattica` does."""
        if self._weights is not None:
            raise LocalProtocolError("the engine is initialized already")
        lattica = self._lattica
        if lattica is None:
            lattica = self._own = Lattica().start()
        try:
            if init_info.addrs:
                lattica.connect(init_info.addrs)
            directory = None if init_info.directory is None else Path(init_info.directory)
            options = WeightOptions(directory=directory)
            self._weights = lattica.follow_weights(init_info.channel, options)
        except BaseException:
            self.shutdown()
            raise

    def start_weight_update(self) -> None:
        """Prepare the model for new weights."""
        if self._updating:
            raise LocalProtocolError("an update of the weights is under way already")
        self._updating = True
        reload = _layerwise()
        if reload is not None:
            reload.initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Wait for a version, and load it into the model."""
        self.receive_weights(self.parse_update_info(update_info))
        torch = loaded("torch")
        accelerator = getattr(torch, "accelerator", None)
        if accelerator is not None and accelerator.is_available():
            accelerator.synchronize()

    def receive_weights(
        self, update_info: LatticaUpdateInfo, load_weights: LoadWeights | None = None
    ) -> None:
        """Wait for a version and load it: by `load_weights`, or the model's method of that name.

        Raises:
            TimeoutError: it has not come in time.
        """
        if self._weights is None:
            raise LocalProtocolError("initialize the engine first")
        wanted = update_info.version
        after = self.version if wanted is None else wanted - 1
        version = self._weights.wait(after, timeout=update_info.timeout)
        load = load_weights or self.model.load_weights
        load(_tensors(version))
        self.version = version.version

    def finish_weight_update(self) -> None:
        """The model has all its new weights."""
        if not self._updating:
            raise LocalProtocolError("no update of the weights is under way")
        self._updating = False
        reload = _layerwise()
        if reload is not None:
            reload.finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Follow the channel no more; any number of times."""
        weights, self._weights = self._weights, None
        own, self._own = self._own, None
        if weights is not None:
            weights.close()
        if own is not None:
            own.close()

    # --- the trainer ---

    @staticmethod
    def trainer_send_weights(
        iterator: Iterable[tuple[str, Any]], trainer_args: dict[str, Any]
    ) -> None:
        """Publish a version.

        `trainer_args` has the `publisher` (of `Lattica.publish_weights`), and may have the
        `version`.
        """
        publisher: BlockingWeightPublisher = trainer_args["publisher"]
        publisher.push(dict(iterator), version=trainer_args.get("version"))


class LatticaTrainerEngine:
    """`TrainerWeightTransferEngine` of vLLM: pushes a source's weights, and has the workers take
    them. On ranks that are not the sender it only walks through the source, which is collective.
    """

    def __init__(
        self,
        publisher: BlockingWeightPublisher,
        *,
        client: Any,
        source: Any,
        is_sender: bool = True,
    ) -> None:
        self.publisher = publisher
        self.client = client
        self.source = source
        self.is_sender = is_sender

    @classmethod
    def trainer_init(
        cls, config: BlockingWeightPublisher, init_info: Any, *, client: Any, source: Any
    ) -> LatticaTrainerEngine:
        """Have the workers follow the channel.

        `config` is the publisher; `init_info` has the `rank`, and perhaps `addrs`, which the
        workers connect to.
        """
        is_sender = getattr(init_info, "rank", 0) == 0
        if is_sender:
            addrs = [str(addr) for addr in getattr(init_info, "addrs", ())]
            client.init_weight_transfer_engine({"channel": config.channel, "addrs": addrs})
        return cls(config, client=client, source=source, is_sender=is_sender)

    def send_weights(self) -> None:
        """Push what the source has now; returns when the workers have loaded it."""
        state = dict(self.source)
        if not self.is_sender:
            return
        pushed = self.publisher.push(state)
        self.client.start_weight_update()
        self.client.update_weights({"version": pushed.version})
        self.client.finish_weight_update()


def _parse(kind: type[T], fields: dict[str, Any]) -> T:
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"no {kind.__name__}: {error}") from error


def _tensors(version: WeightVersion) -> list[tuple[str, Any]]:
    tensors = version.numpy() if loaded("torch") is None else version.torch()
    return list(tensors.items())


def _layerwise() -> Any:
    """vLLM's functions for reloading layer by layer; None where it is not there."""
    if loaded("vllm") is None:
        return None
    from importlib import import_module

    return import_module("vllm.model_executor.model_loader.reload")
