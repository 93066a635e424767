# mypy: ignore-errors
"""A machine with MLX's device, so that Parallax takes the executor for it."""

from types import SimpleNamespace

from stub_anything import anything as __getattr__  # noqa: F401

metal = SimpleNamespace(is_available=lambda: True)
