# mypy: ignore-errors
"""Has Parallax load the executor of this folder: its own is the model, on torch or MLX."""

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

EXECUTOR = "parallax.server.executor.mlx_executor"


class _Finder:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != EXECUTOR:
            return None
        return importlib.util.spec_from_file_location(
            name, Path(__file__).with_name("stub_executor.py")
        )


sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
if os.environ.get("PARALLAX_PACKAGES"):
    sys.path.append(os.environ["PARALLAX_PACKAGES"])
