"""`lattica config show`: what is set, and by what."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.global_options import GlobalOptions
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.config import Setting


def show_command(
    ctx: typer.Context,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only what is not at its default.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object: a value and a source by name.")
    ] = False,
) -> None:
    """Show every setting that is in force, and where it comes from.

    That is what `lattica node` would have with the same options, and what a program has that gives
    no configuration; only such a program keeps its key nowhere unless identity_path is set. The
    output can be used as a configuration file; secrets are not shown.
    """
    from lattica.config import explain_config

    options = ctx.find_object(GlobalOptions) or GlobalOptions()
    settings = _of_commands(explain_config(options.config_file, os.environ, options.overrides))
    shown = [one for one in settings if not changed or one.source != "default"]
    if as_json:
        objects = {one.name: {"value": _plain(one), "source": one.source} for one in shown}
        say_json(objects, indent=2)
        return
    for one in shown:
        hidden = _is_hidden(one)
        text = f"# {one.name} is not shown" if hidden else f"{one.name} = {_toml(one.value)}"
        say(f"{text}  # {one.source}")


def _of_commands(settings: tuple[Setting, ...]) -> list[Setting]:
    """With the key file that the commands have where none is set."""
    from lattica.config import Setting, key_file_in

    (data_dir,) = (one.value for one in settings if one.name == "data_dir")
    assert isinstance(data_dir, Path)
    key_file = key_file_in(data_dir)
    return [
        Setting(one.name, key_file, "default")
        if one.name == "identity_path" and one.value is None
        else one
        for one in settings
    ]


def _is_hidden(setting: Setting) -> bool:
    """Whether the value is a secret: a key, or a text that does not just say where one is."""
    from lattica.daemon.access.secrets import SECRET_TEXTS, is_reference

    value = setting.value
    if setting.name in SECRET_TEXTS:
        return bool(value) and not is_reference(str(value))
    return isinstance(value, bytes)


def _plain(setting: Setting) -> object:
    """As JSON has it."""
    value = setting.value
    if _is_hidden(setting):
        return "(not shown)"
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return list(value) if isinstance(value, tuple) else str(value)


def _toml(value: object) -> str:
    """As a TOML file has it; an empty text unsets what may be unset."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # Strings of JSON are strings of TOML but for one character, which JSON may escape, too.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
