# mypy: ignore-errors
"""As much of torch as Parallax needs to receive weights: tensors are numpy arrays."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from stub_anything import anything as __getattr__  # noqa: F401

__version__ = "2.8.0"


class Tensor(np.ndarray):
    def clone(self) -> Any:
        return self.copy()


def _kind(name: str) -> Any:
    return np.dtype(name)


float16, float32, float64 = map(_kind, ("float16", "float32", "float64"))
int8, int16, int32, int64, uint8 = map(_kind, ("int8", "int16", "int32", "int64", "uint8"))
bfloat16 = _kind("uint16")
bool = _kind("bool")

cuda = SimpleNamespace(is_available=lambda: False)
mps = SimpleNamespace(is_available=lambda: False)
nn = SimpleNamespace(Module=object)


def frombuffer(data: Any, dtype: Any) -> Any:
    return np.frombuffer(data, dtype).view(Tensor)


def cat(tensors: Any, dim: int = 0) -> Any:
    return np.concatenate(tensors, dim).view(Tensor)
