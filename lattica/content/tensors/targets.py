"""Arrays and tensors that exist already, as places for the bytes of others of their form."""

from __future__ import annotations

from typing import Any

from lattica.content.manifest.tensor_files.safetensors_header import Tensor
from lattica.content.tensors.elements import RawTensor, Value, as_numpy, as_torch, is_torch
from lattica.content.tensors.placing import fresh_memory
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.encoding.arrays import memory_of


def is_direct(target: Any) -> bool:
    """Whether the elements lie in memory as they come."""
    if isinstance(target, RawTensor):
        return not target.data.readonly and target.data.c_contiguous
    if is_torch(target):
        return bool(
            target.device.type == "cpu"
            and target.is_contiguous()
            and not target.is_conj()
            and not target.is_neg()
        )
    flags = target.flags
    return bool(flags.c_contiguous and flags.writeable and target.dtype.byteorder != ">")


def memory_for(target: Value, tensor: Tensor) -> memoryview:
    """Where to put the bytes of a tensor: the memory of the target, if they can lie there as they
    come, or memory of their own, from which :func:`settle` brings them.
    """
    if not tensor.length or not is_direct(target):
        return fresh_memory(tensor)
    if isinstance(target, RawTensor):
        return target.data.cast("B")
    if is_torch(target):
        target = target.detach()
    return memory_of(target).cast("B")


def settle(target: Value, tensor: Tensor, data: memoryview) -> None:
    """A tensor is whole: bring it to where it belongs, if it is not there.

    Raises:
        LocalProtocolError: the target cannot be written to.
    """
    if not tensor.length or is_direct(target):
        return
    try:
        if isinstance(target, RawTensor):
            raise ValueError("its memory is read only, or in several pieces")
        if is_torch(target):
            import torch  # type: ignore[import-not-found,unused-ignore]

            with torch.no_grad():
                target.copy_(as_torch(tensor, data))
        else:
            target[...] = as_numpy(tensor, data)
    except (RuntimeError, TypeError, ValueError) as error:
        raise LocalProtocolError(f"{tensor.name!r} cannot be loaded into: {error}") from None


def load(target: Value, tensor: Tensor, data: memoryview) -> None:
    """Copy the bytes of a tensor, which stay, into a target of its form; raises as `settle`."""
    if tensor.length and is_direct(target):
        memory_for(target, tensor)[:] = data
    else:
        settle(target, tensor, data)
