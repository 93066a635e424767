"""A safetensors checkpoint as language models have it, and whether a copy of it is equal."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from tools.demo.stage import DemoError

HIDDEN = 1024
INTERMEDIATE = 2816
VOCABULARY = 32_000
SMALLEST_VOCABULARY = 1000
BYTES_PER_LAYER = (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE) * 2
BYTES_PER_TOKEN = 2 * HIDDEN * 2


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What the size of a checkpoint follows from."""

    layers: int
    vocabulary: int

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return self.layers * BYTES_PER_LAYER + self.vocabulary * BYTES_PER_TOKEN


def dimensions_for(size: int) -> Dimensions:
    """Those of a checkpoint of about `size` bytes: a vocabulary of :data:`VOCABULARY` and as many
    layers as fit, or one layer and a smaller vocabulary."""
    layers = max(1, round((size - VOCABULARY * BYTES_PER_TOKEN) / BYTES_PER_LAYER))
    tokens = (size - layers * BYTES_PER_LAYER) // BYTES_PER_TOKEN
    vocabulary = VOCABULARY if layers > 1 else min(VOCABULARY, max(SMALLEST_VOCABULARY, tokens))
    return Dimensions(layers, vocabulary)


def _tensor_shapes(dimensions: Dimensions) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, shape) as Llama-like models have them."""
    yield "model.embed_tokens.weight", "float16", (dimensions.vocabulary, HIDDEN)
    for layer in range(dimensions.layers):
        prefix = f"model.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}.self_attn.{part}.weight", "float16", (HIDDEN, HIDDEN)
        for part in ("gate_proj", "up_proj"):
            yield f"{prefix}.mlp.{part}.weight", "float16", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", "float16", (HIDDEN, INTERMEDIATE)
        for part in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{part}.weight", "float32", (HIDDEN,)
    yield "model.norm.weight", "float32", (HIDDEN,)
    yield "lm_head.weight", "float16", (dimensions.vocabulary, HIDDEN)


def make_checkpoint(directory: Path, dimensions: Dimensions, checkpoint: Callable[[], None]) -> int:
    """Write two shards with an index (float16 and float32); their size in bytes.

    `checkpoint` is called now and then, and may raise to end it.
    """
    directory.mkdir()
    rng = np.random.default_rng(2510)
    shapes = list(_tensor_shapes(dimensions))
    half = len(shapes) // 2
    weight_map: dict[str, str] = {}
    for number, chosen in enumerate((shapes[:half], shapes[half:]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
        for name, dtype, shape in chosen:
            checkpoint()
            tensors[name] = rng.standard_normal(shape, np.float32).astype(dtype)
        save_file(tensors, directory / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
    size = sum(path.stat().st_size for path in directory.iterdir())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": dimensions.layers,
        "torch_dtype": "float16",
        "vocab_size": dimensions.vocabulary,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    return sum(path.stat().st_size for path in directory.iterdir())


def compare(source: Path, copy: Path, checkpoint: Callable[[], None]) -> int:
    """Compare two trees byte by byte; the number of files. DemoError for a difference."""
    names = sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file())
    copies = sorted(str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file())
    if names != copies:
        raise DemoError(f"the files differ: published {names}, fetched {copies}")
    filecmp.clear_cache()
    for name in names:
        checkpoint()
        if not filecmp.cmp(source / name, copy / name, shallow=False):
            raise DemoError(f"{name} differs")
    return len(names)


def count_tensors(directory: Path) -> int:
    """Open every shard with the safetensors library; the number of tensors."""
    count = 0
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            count += len(list(file.keys()))
    return count
