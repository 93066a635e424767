"""How channels of weights behave, and what comes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lattica.content.manifest.cid import Cid
from lattica.content.manifest.tensor_files.safetensors_header import TensorLayout
from lattica.content.tensors.elements import RawTensor, StateDict, form_of
from lattica.content.tensors.mapped import MappedTensors
from lattica.content.tensors.targets import load
from lattica.content.weights.announcement import MAX_DELTAS
from lattica.nat.base.checks import require, require_seconds, require_types
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.in_process import InProcess


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """How a publisher or a subscriber of weights behaves. Seconds."""

    directory: Path | None = None
    """Where versions lie; None: a temporary directory, which goes with it. In `/dev/shm` they cost
    memory and no writes to a disk. One directory serves one publisher or subscriber at a time; one
    into which other users can write is refused."""
    keep: int = 2
    """Versions that are kept and served, the newest ones."""
    linger: float = 10.0
    """For so long older ones stay, for those who are fetching them, unless there are more than
    eight. Publishers alone."""
    deltas: int = 8
    """Deltas that are kept and announced: so many versions a subscriber may be behind and still
    need no more than what has changed. Publishers alone; 0: none are made."""
    announce_every: float = 15.0
    """Between two announcements of the same version, for those who have missed it."""
    retry_after: float = 1.0
    """Pause after a version could not be had; doubles up to `retry_limit`. A newer version is tried
    at once."""
    retry_limit: float = 15.0
    give_up_after: float = 60.0
    """Without progress, after which one attempt to get a version ends."""

    def __post_init__(self) -> None:
        require_types(self)
        require(self.keep >= 1, "keep", "at least 1", self.keep)
        require(0 <= self.deltas <= MAX_DELTAS, "deltas", f"0 to {MAX_DELTAS}", self.deltas)
        for name in ("linger", "announce_every", "retry_after", "retry_limit", "give_up_after"):
            require_seconds(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class PushedVersion:
    """A version that has been published."""

    version: int
    cid: Cid
    size: int
    """Bytes of its file."""
    delta_size: int | None
    """Bytes of what leads to it from the one before; None if there is nothing of the kind."""


@dataclass(frozen=True, eq=False)
class WeightVersion(InProcess):
    """A version that is here, complete and verified.

    Its tensors lie in a mapped file and are read when they are used. They stay readable, for as
    long as this or one of them is held, also when the subscriber has removed the file.
    """

    version: int
    """The publisher's number."""
    cid: Cid
    path: Path
    """A safetensors file, which is removed when newer versions are there."""
    size: int
    """Bytes of it."""
    bytes_fetched: int
    """That came over the network for it."""
    seconds: float
    """That it took to get it, from the announcement on."""
    layout: TensorLayout = field(repr=False)
    _tensors: MappedTensors = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors."""
        return tuple(tensor.name for tensor in self.layout.tensors)

    def raw(self) -> dict[str, RawTensor]:
        """The tensors as bytes, by name."""
        found = {}
        for name in self._tensors:
            tensor, data = self._tensors.raw(name)
            found[name] = RawTensor(tensor.dtype, tensor.shape, data)
        return found

    def numpy(self) -> dict[str, Any]:
        """The tensors as read-only arrays of numpy, by name. bfloat16 needs ml_dtypes."""
        return dict(self._tensors)

    def torch(self) -> dict[str, Any]:
        """The tensors as tensors of torch, by name, on the CPU; they must not be written to."""
        return {name: self._tensors.torch(name) for name in self._tensors}

    def load_into(self, state: StateDict) -> None:
        """Copy into arrays or tensors that exist already, with no second copy between. Blocking.

        Names that `state` lacks are left out. Tensors on a GPU are copied to.

        Raises:
            LocalProtocolError: one of them is not in this version, or has another type or shape.
        """
        for name, target in state.items():
            if name not in self._tensors:
                raise LocalProtocolError(f"there is no tensor {name!r} in these weights")
            tensor, data = self._tensors.raw(name)
            form = form_of(name, target)
            if form != (tensor.dtype, tensor.shape):
                raise LocalProtocolError(
                    f"the tensor {name!r} is {tensor.dtype} of shape {tensor.shape}, not "
                    f"{form[0]} of {form[1]}"
                )
            load(target, tensor, data)
