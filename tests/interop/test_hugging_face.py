"""The hub's own client, unmodified, at our door: HF_ENDPOINT is all that it is told."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.loopback.commands.commands import LATTICA, LISTEN, environment, published

pytestmark = pytest.mark.foreign

REPOSITORY = "my-org/my-model"
SNAPSHOT = f"""
import sys
from pathlib import Path
from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub import errors

whole = snapshot_download({REPOSITORY!r}, revision="v1", cache_dir=sys.argv[1])
one = hf_hub_download({REPOSITORY!r}, "config.json", revision="v1", cache_dir=sys.argv[2])
assert Path(one).parent.name == Path(whole).name
commit = Path(whole).name
again = hf_hub_download({REPOSITORY!r}, "sub/a b#c.txt", revision=commit, cache_dir=sys.argv[2])
some = snapshot_download(
    {REPOSITORY!r}, revision="v1", allow_patterns="*.json", local_dir=sys.argv[3]
)
assert sorted(p.name for p in Path(some).glob("[!.]*")) == [
    "config.json", "model.safetensors.index.json",
]
for wanted, name, revision in (
    (errors.EntryNotFoundError, "none", "v1"),
    (errors.RevisionNotFoundError, "config.json", "v2"),
):
    try:
        hf_hub_download({REPOSITORY!r}, name, revision=revision, cache_dir=sys.argv[4])
    except wanted:
        pass
    else:
        raise AssertionError(wanted)
try:
    snapshot_download("my-org/other", cache_dir=sys.argv[4])
except errors.RepositoryNotFoundError:
    pass
else:
    raise AssertionError("a repository that is not there")
print(whole)
print(*sorted(list_repo_files({REPOSITORY!r}, revision="v1")), sep="\\n")
"""
RESUME = f"""
import sys
from pathlib import Path
import huggingface_hub.file_download as download

# As a client that was interrupted: a part of the file lies where it goes on.
before = download.http_get
def cut(url, temp_file, *, resume_size=0, **more):
    if not resume_size:
        temp_file.write(Path(sys.argv[2]).read_bytes()[:100_001])
        resume_size = 100_001
    return before(url, temp_file, resume_size=resume_size, **more)
download.http_get = cut
print(download.hf_hub_download({REPOSITORY!r}, sys.argv[3], revision="v1", cache_dir=sys.argv[1]))
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A sharded one."""
    directory = tmp_path / "checkpoint"
    (directory / "sub").mkdir(parents=True)
    rng = np.random.default_rng(1)
    shards: dict[str, str] = {}
    for number in (1, 2):
        name = f"model-{number:05}-of-00002.safetensors"
        tensors = {f"layers.{number}.w": rng.standard_normal((1024, 768), np.float32)}
        save_file(tensors, directory / name)
        shards |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 2 * 1024 * 768 * 4}, "weight_map": shards}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text("{}")
    (directory / "sub" / "a b#c.txt").write_text("text")
    (directory / "sub" / "empty").touch()
    return directory


@contextmanager
def door(ticket: str, directory: Path):
    """A running `lattica hf-door`; what HF_ENDPOINT is to be."""
    command = [*LATTICA, "hf-door", ticket, "--http", "127.0.0.1:0", "--listen", LISTEN]
    process = subprocess.Popen(
        [*command, "--cache", str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(directory.parent / "door-data"),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("export HF_ENDPOINT=http://127.0.0.1:"), line
        yield line.strip().partition("=")[2]
    finally:
        process.terminate()
        assert process.wait(60) == 0


def client(installed: Path, endpoint: str, script: str, *arguments: str | Path) -> list[str]:
    """Run a script with the hub's client; the lines that it prints."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [str(installed / "venv/bin/python"), "-c", script, *map(str, arguments)],
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1",
             "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(arguments[0])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_hubs_own_client(hugging_face_installed, checkpoint, tmp_path):
    expected = {
        str(path.relative_to(checkpoint)): path.read_bytes()
        for path in checkpoint.rglob("*")
        if path.is_file()
    }
    caches = [tmp_path / f"cache-{n}" for n in range(4)]
    with (
        published(checkpoint, tmp_path / "publisher", "--repo", f"{REPOSITORY}@v1") as publisher,
        door(publisher.ticket, tmp_path / "door") as endpoint,
    ):
        assert publisher.info["repo"] == f"{REPOSITORY}@v1"
        whole, *names = client(hugging_face_installed, endpoint, SNAPSHOT, *caches)
        shard = "model-00001-of-00002.safetensors"
        source = checkpoint / shard
        [resumed] = client(
            hugging_face_installed, endpoint, RESUME, tmp_path / "cache-r", source, shard
        )
    assert names == sorted(expected)
    for name, data in expected.items():
        assert (Path(whole) / name).read_bytes() == data
    assert Path(resumed).read_bytes() == expected[shard]
