"""The options of `lattica` itself: before a command's name, and after it as well."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_PANEL = "Options of all commands"
_SETTINGS = {"log_level": "log_level", "data_dir": "data_dir", "identity": "identity_path"}
"""Options that are settings, and the names of those."""


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """What was given of them."""

    config_file: Path | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Settings by dotted name, as :func:`lattica.config.load_config` takes them."""
    log_json: bool = False
    no_daemon: bool = False

    def given(self, option: str, value: object) -> GlobalOptions:
        """With one more, by the name of its parameter; None and False say that it was not given."""
        if value is None or value is False:
            return self
        if option == "config":
            return replace(self, config_file=Path(str(value)))
        if option == "log_json":
            return replace(self, log_json=True)
        if option == "no_daemon":
            return replace(self, no_daemon=True)
        return replace(self, overrides={**self.overrides, _SETTINGS[option]: value})


# Commands and parameters are click's or typer's own, depending on the version of typer.


def allow_after(group: Any, command: Any, ctx: Any) -> None:
    """Let a command, and those below it, take the options of `group` too; what is said last holds.
    Idempotent."""
    own = {name for param in command.params for name in (param.name, *param.opts)}
    for param in group.params:
        if param.name in {"config", "log_json", "no_daemon", *_SETTINGS} and not own & {
            param.name,
            *param.opts,
        }:
            again = copy(param)
            again.envvar = None  # heard of before
            again.expose_value = False
            again.callback = _note
            again.rich_help_panel = _PANEL
            command.params.append(again)
    for below in getattr(command, "commands", {}).values():
        allow_after(group, below, ctx)
    without_types_of_flags(command.get_params(ctx))


def _note(ctx: Any, param: Any, value: object) -> object:
    ctx.obj = (ctx.find_object(GlobalOptions) or GlobalOptions()).given(param.name, value)
    return value


def without_types_of_flags(params: list[Any]) -> list[Any]:
    """Of a flag there is nothing to be said but its name; newer versions of typer add `<bool>`."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


def unfold_help(command: Any) -> None:
    """Have the help of a command, and of those below it, break lines where the terminal does, and
    not where the source does; examples, which are indented, stay as they are. Idempotent."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(
        each if each.startswith(" ") else each.replace("\n", " ") for each in paragraphs
    )
    for below in getattr(command, "commands", {}).values():
        unfold_help(below)
