# mypy: ignore-errors
"""The hub with one file: the shape of a model that two nodes of 16 GB hold together."""

import json
import tempfile
from pathlib import Path
from typing import Any

from stub_anything import anything as __getattr__  # noqa: F401

CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "num_hidden_layers": 36,
    "torch_dtype": "bfloat16",
}


def hf_hub_download(*, repo_id: str, filename: str, **kwargs: Any) -> str:
    path = Path(tempfile.gettempdir()) / f"{repo_id.replace('/', '--')}-{filename}"
    path.write_text(json.dumps(CONFIG))
    return str(path)
