# mypy: ignore-errors
from stub_anything import anything as __getattr__  # noqa: F401
