"""Tensors that are no plain ones, and what a peer may say that one is. Most need torch."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from lattica.rpc import with_options
from lattica.rpc.encoding.arrays import (
    RefusedValueError,
    _torch_dtypes,
    make_tensor,
    memory_of,
    tensor_parts,
)
from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.encoder import Encoder
from lattica.rpc.encoding.registry import TypeRegistry
from tests.support.rpc.pair import rpc_pair


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def sent(value: Any) -> Any:
    encoded = Encoder(TypeRegistry()).encode(value)
    decoded, refusal = Decoder(TypeRegistry()).decode_partly(
        encoded.skeleton, [memoryview(bytearray(each)) for each in encoded.buffers]
    )
    assert refusal is None
    return decoded


NAMES = (
    "_dynamo",
    "onnx",
    "nn",
    "float33",
    "__name__",
    "qint8",
    "quint4x2",
    "bits8",
    "int4",
    "",
    "a.b",
)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_element_type_is_refused(torch: Any, name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(RefusedValueError, match="no element type"):
        make_tensor(name, [4], bytes(4))
    assert set(sys.modules) == before


def test_a_peer_s_name_of_an_element_type_is_no_attribute(monkeypatch: Any) -> None:
    """Without torch: a module like it, which does much when it is asked for some names."""

    class Lazy(ModuleType):
        dtype = type("dtype", (), {})

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was asked for")

    module = Lazy("torch")
    monkeypatch.setitem(sys.modules, "torch", module)
    with pytest.raises(RefusedValueError, match="no element type '_dynamo'"):
        make_tensor("_dynamo", [4], bytes(4))


@pytest.mark.filterwarnings("ignore")
def test_every_element_type_arrives_as_it_was(torch: Any) -> None:
    kinds = {kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
    arrived = set()
    for kind in kinds:
        raw = torch.arange(16, dtype=torch.uint8) % 2
        name = str(kind).removeprefix("torch.")
        if kind not in _torch_dtypes(torch).values():
            with pytest.raises(TypeError, match="cannot be sent"):
                sent([torch.empty(2, dtype=kind)])
            continue
        back = sent([raw.view(kind)])[0]
        assert back.dtype == kind
        assert torch.equal(back.view(torch.uint8), raw)
        repr(back)
        arrived.add(name)
    usual = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "bool"}
    usual |= {"complex64", "complex128", "int8", "int16", "int32", "int64"}
    assert usual | {"uint8", "uint16", "uint32", "uint64"} <= arrived
    assert not [name for name in arrived if name.startswith(("q", "bit"))]


def test_views_are_sent_as_what_they_show(torch: Any) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    cases = [
        base.transpose(0, 2),
        base[:, ::2],
        base[0, 0].expand(5, 4),
        base.to(torch.complex64).conj(),
        (base + 1j * base).imag,
        base.flip(0),
        torch.tensor(7),
        torch.zeros(0, 3),
        base.clone().requires_grad_() * 2,
    ]
    for tensor in cases:
        back = sent(tensor)
        assert back.dtype == tensor.dtype
        assert torch.equal(back, tensor.resolve_conj())
        assert not back.requires_grad
        back.zero_()  # it is the receiver's own


@pytest.mark.filterwarnings("ignore")
def test_others_are_a_type_error_that_says_where(torch: Any) -> None:
    for tensor in (
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, 2).to_sparse_csr(),
        torch.empty(2, device="meta"),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    ):
        with pytest.raises(TypeError, match=r"value\[1\]\['w'\]: "):
            sent([1, {"w": tensor}])


def test_out_is_a_tensor_or_a_parameter(torch: Any) -> None:
    for target in (torch.zeros(3), torch.nn.Parameter(torch.zeros(3))):
        memory_of(target)[:4] = b"\0\0\x80?"
        assert target[0].item() == 1.0
    for target in (torch.zeros(3, 3).t(), torch.zeros(1).expand(3)):
        with pytest.raises(TypeError, match="contiguous tensor"):
            memory_of(target)


class Trainer:
    def __init__(self, weight: Any) -> None:
        self.weight = weight

    async def get(self) -> Any:
        return self.weight


async def test_results_are_received_into_parameters(torch: Any) -> None:
    """Also small ones, which come with what is around them and are copied."""
    async with rpc_pair() as pair:
        for size in (5, 100_000):
            weight = torch.arange(float(size))
            pair.server.serve(Trainer(weight), replace=True)
            layer = torch.nn.Parameter(torch.zeros(size))
            address = layer.data_ptr()
            stub = pair.client.stub(pair.server_host.peer_id, Trainer)
            assert await with_options(stub, out=layer).get() is layer
            assert torch.equal(layer.detach(), weight)
            assert layer.data_ptr() == address
            assert layer.requires_grad
            with pytest.raises(TypeError, match="another form"):
                await with_options(stub, out=torch.zeros(size + 1)).get()


def test_a_program_without_torch_says_so() -> None:
    program = """
from lattica.rpc.encoding.arrays import RefusedValueError, make_tensor
try:
    make_tensor("float32", [1], bytes(4))
except RefusedValueError as error:
    assert "has not imported torch" in str(error)
else:
    raise AssertionError
import sys
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_parts_of_a_tensor(torch: Any) -> None:
    dtype, shape, memory = tensor_parts(torch.ones(2, 3, dtype=torch.bfloat16))
    assert (dtype, shape, memory.nbytes) == ("bfloat16", [2, 3], 12)
