"""`make demo`: a checkpoint goes from one peer to another, through the real commands.

Makes a safetensors checkpoint as language models have it (two shards with an index, float16
and float32), runs `lattica publish` in one process and `lattica fetch` in another, and compares
every byte. Exit status 0 only if all are equal. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

HIDDEN = 1024
INTERMEDIATE = 2816
VOCABULARY = 32_000
BYTES_PER_LAYER = (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE) * 2
BYTES_OUTSIDE_LAYERS = 2 * VOCABULARY * HIDDEN * 2
MB = 1_000_000
START_TIMEOUT = 60
STOP_TIMEOUT = 10
LISTEN = "/ip4/127.0.0.1/tcp/0"


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def fail(text: str) -> NoReturn:
    print(f"demo: FAILED: {text}", file=sys.stderr)
    raise SystemExit(1)


def lattica_command() -> list[str]:
    """The installed command of the interpreter that runs this."""
    script = Path(sys.executable).parent / "lattica"
    if not script.exists():
        fail(f"{script} is missing; run `make demo`, which installs it")
    return [str(script)]


# --- the checkpoint ---


def tensor_shapes(layers: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, shape) as Llama-like models have them."""
    yield "model.embed_tokens.weight", "float16", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}.self_attn.{part}.weight", "float16", (HIDDEN, HIDDEN)
        for part in ("gate_proj", "up_proj"):
            yield f"{prefix}.mlp.{part}.weight", "float16", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", "float16", (HIDDEN, INTERMEDIATE)
        for part in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{part}.weight", "float32", (HIDDEN,)
    yield "model.norm.weight", "float32", (HIDDEN,)
    yield "lm_head.weight", "float16", (VOCABULARY, HIDDEN)


def make_checkpoint(directory: Path, layers: int) -> int:
    """Write a checkpoint; returns its size in bytes."""
    directory.mkdir()
    rng = np.random.default_rng(2510)
    shapes = list(tensor_shapes(layers))
    half = len(shapes) // 2
    weight_map: dict[str, str] = {}
    for number, chosen in enumerate((shapes[:half], shapes[half:]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        tensors = {
            name: rng.standard_normal(shape, np.float32).astype(dtype)
            for name, dtype, shape in chosen
        }
        save_file(tensors, directory / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard)
    size = sum(path.stat().st_size for path in directory.iterdir())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "torch_dtype": "float16",
        "vocab_size": VOCABULARY,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    return sum(path.stat().st_size for path in directory.iterdir())


# --- the two peers ---


@contextmanager
def publishing(path: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run `lattica publish` until the end of the block; gives the ticket."""
    command = [*lattica_command(), "publish", str(path), "--listen", LISTEN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        ticket = process.stdout.readline().strip()
        if not ticket:
            fail(f"lattica publish ended with status {process.wait(START_TIMEOUT)}")
        yield ticket
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_TIMEOUT)
        finally:
            process.kill()


def fetch(ticket: str, out: Path, environment: dict[str, str]) -> dict[str, object]:
    """Run `lattica fetch`; returns its JSON summary. Progress goes to standard error."""
    command = [*lattica_command(), "fetch", ticket, "-o", str(out), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        fail(f"lattica fetch ended with status {done.returncode}")
    result: dict[str, object] = json.loads(done.stdout)
    return result


# --- the judgement ---


def compare(source: Path, copy: Path) -> int:
    """Compare two trees byte by byte; returns the number of files, fails at a difference."""
    names = sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file())
    copies = sorted(str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file())
    if names != copies:
        fail(f"the files differ: published {names}, fetched {copies}")
    filecmp.clear_cache()
    for name in names:
        if not filecmp.cmp(source / name, copy / name, shallow=False):
            fail(f"{name} differs")
    return len(names)


def count_tensors(directory: Path) -> int:
    """Open every shard with the safetensors library; returns the number of tensors."""
    count = 0
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            count += len(list(file.keys()))
    return count


def run(directory: Path, layers: int) -> None:
    source, copy = directory / "checkpoint", directory / "fetched"
    began = time.monotonic()
    size = make_checkpoint(source, layers)
    say(f"made a checkpoint of {size / MB:.0f} MB in {time.monotonic() - began:.1f} s")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LATTICA_")}
    quiet = {**kept, "LATTICA_LOG_LEVEL": "warning"}
    publisher = {**quiet, "LATTICA_DATA_DIR": str(directory / "publisher")}
    fetcher = {**quiet, "LATTICA_DATA_DIR": str(directory / "fetcher")}
    say("one peer publishes it: lattica publish checkpoint")
    with publishing(source, publisher) as ticket:
        say(f"another one fetches it: lattica fetch {ticket[:24]}… -o fetched")
        result = fetch(ticket, copy, fetcher)
    files = compare(source, copy)
    tensors = count_tensors(copy)
    if result["bytes_fetched"] != size:
        fail(f"{result['bytes_fetched']} bytes were fetched of {size}")
    say(f"identical: {files} files, {tensors} tensors, {size} bytes")
    say(
        f"path: direct, TCP on loopback; {result['seconds']} s with verification and sync to "
        f"disk: {result['mb_per_s']} MB/s"
    )


def layers_for(directory: Path, size: int) -> int:
    """How many layers make about `size` bytes; fails when the disk cannot take it twice."""
    layers = max(1, round((size - BYTES_OUTSIDE_LAYERS) / BYTES_PER_LAYER))
    needed = 2 * (BYTES_OUTSIDE_LAYERS + layers * BYTES_PER_LAYER) + 50 * MB
    free = shutil.disk_usage(directory).free
    if free < needed:
        fail(
            f"{directory} has {free / MB:.0f} MB free, and {needed / MB:.0f} are needed; "
            "choose another place with --dir, or less with --megabytes"
        )
    return layers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument(
        "--megabytes", type=int, default=350, help="size of the checkpoint (default: 350)"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()), help="where to work"
    )
    options = parser.parse_args()

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)  # so that everything is cleaned up
    layers = layers_for(options.dir, options.megabytes * MB)
    with tempfile.TemporaryDirectory(prefix="lattica-demo-", dir=options.dir) as directory:
        run(Path(directory), layers)


if __name__ == "__main__":
    main()
