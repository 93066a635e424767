"""The commands of `lattica`, each built when it is asked for.

To import all of them and build their options takes longer than most commands run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import typer.main


class Commands(Mapping[str, Any]):
    """By name, in the order of the help; click's or typer's own, as typer has it.

    Args:
        modules: of the modules that have a `register(app)`, the names of the commands it adds.
    """

    def __init__(self, modules: Mapping[str, Sequence[str]]) -> None:
        self._module = {name: module for module, names in modules.items() for name in names}
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        module = self._module[name]
        if name not in self._built:
            app = typer.Typer()
            import_module(module).register(app)
            self._built.update(typer.main.get_group(app).commands)
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._module)

    def __len__(self) -> int:
        return len(self._module)
