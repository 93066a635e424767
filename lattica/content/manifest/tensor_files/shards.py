"""Sharded checkpoints: are the shards what their index (`*.safetensors.index.json`) says?"""

from __future__ import annotations

import json
from pathlib import Path

from lattica.content.errors import ContentError
from lattica.content.manifest.manifest import Manifest

_INDEX = ".safetensors.index.json"
_MAX_INDEX = 64 * 1024 * 1024


def is_index(path: str) -> bool:
    """Whether a file is called as the index of a sharded checkpoint."""
    return path.endswith(_INDEX)


def check_index(manifest: Manifest, shown: str, path: Path) -> None:
    """Compare the index `shown` of a publication, which lies at `path`, with the shards; blocking.

    Raises:
        ContentError: it names a file that is not published, or a tensor that is not in its file, or
            it is no such index.
    """
    weights = _read_index(path, shown)
    tensors = {
        file.path: None if file.layout is None else {t.name for t in file.layout.tensors}
        for file in manifest.files
    }
    above = shown.rpartition("/")[0]
    for tensor, shard in weights.items():
        known = f"{above}/{shard}" if above else shard
        if known not in tensors:
            raise ContentError(
                f"{shown} names the shard {shard!r}, which is not there; finish the "
                "download, or remove the index"
            )
        has = tensors[known]
        if has is not None and tensor not in has:
            raise ContentError(
                f"{shown} says that {tensor!r} is in {shard!r}, which does not have it"
            )


def _read_index(path: Path, shown: str) -> dict[str, str]:
    """Shards by tensor."""
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise ContentError(f"{shown} has more than {_MAX_INDEX} bytes")
        weights = json.loads(path.read_bytes())["weight_map"]
        if isinstance(weights, dict) and all(isinstance(shard, str) for shard in weights.values()):
            return weights
    except OSError as error:
        raise ContentError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ContentError(f"{shown} is no index of a sharded checkpoint: it has no weight_map")
