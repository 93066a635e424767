# mypy: ignore-errors
"""Names of a library that is not there: whatever is asked for exists, and does nothing."""

from typing import Any


class Anything:
    """Stands for a class, a function or a type of numbers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __class_getitem__(cls, item: Any) -> Any:
        return cls


def anything(name: str) -> Any:
    """What a module's `__getattr__` returns for `name`."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Anything,), {})
