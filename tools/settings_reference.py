"""Writes docs/operating/settings.md, the reference of all settings, from their dataclasses.

`python -m tools.settings_reference`, after a setting was added or changed; a test compares.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from lattica.config import NodeConfig

TARGET = Path(__file__).parents[1] / "docs" / "operating" / "settings.md"

_HEAD = """# Settings

Made from the dataclasses by `.venv/bin/python -m tools.settings_reference`;
[configuration.md](configuration.md) says where settings are given. `swarm.limits.max_connections`
is `max_connections` in the table `[swarm.limits]` of a TOML file,
`LATTICA_SWARM__LIMITS__MAX_CONNECTIONS` in the environment, and
`SwarmConfig(limits=Limits(max_connections=…))` in Python. Units are seconds and bytes where nothing
else is said.

Shorter: `listen` is `swarm.listen`, `relays` is `nat.relay.relays`, and `private_network_key_file`
is a file in go-libp2p's `swarm.key` format for `swarm.private_network_key`.
"""
_KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    bytes: "bytes, hexadecimal",
    Path: "path",
}


def reference() -> str:
    """The whole document."""
    return "\n".join([_HEAD, *_groups(NodeConfig, "")])


def _groups(cls: type, prefix: str) -> Iterator[str]:
    kinds = get_type_hints(cls)
    members = fields(cls)
    leaves = [member for member in members if not is_dataclass(kinds[member.name])]
    if leaves:
        yield f"## {prefix.rstrip('.') or 'Top'} · `{cls.__module__}.{cls.__name__}`\n"
        yield f"{_first_paragraph(cls.__doc__ or '')}\n"
        yield "| setting | is | default | |"
        yield "|---|---|---|---|"
        docs = _docstrings(cls)
        for member in leaves:
            cells = (
                f"`{prefix}{member.name}`",
                _kind(kinds[member.name]),
                _default(member),
                docs.get(member.name, ""),
            )
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        yield ""
    for member in members:
        if is_dataclass(kinds[member.name]):
            yield from _groups(kinds[member.name], f"{prefix}{member.name}.")


def _first_paragraph(text: str) -> str:
    return _plain(inspect.cleandoc(text).partition("\n\n")[0])


def _plain(text: str) -> str:
    """On one line, without the roles of reStructuredText."""
    line = " ".join(text.split())
    for role in (":class:", ":func:", ":mod:", ":data:", ":meth:", ":attr:"):
        line = line.replace(f"{role}`~", "`").replace(f"{role}`", "`")
    return line


def _docstrings(cls: type) -> dict[str, str]:
    """The texts below the fields of a class, by field."""
    (node,) = ast.parse(inspect.getsource(cls).lstrip()).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for one, following in zip(node.body, node.body[1:], strict=False):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            match following:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    found[one.target.id] = _plain(text)
    return found


def _kind(kind: Any) -> str:
    origin, parameters = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (one for one in parameters if one is not type(None))
        return f"{_kind(inner)}, or none"
    if origin is tuple:
        return f"list of {_kind(parameters[0])}s"
    return _KINDS[kind]


def _default(member: Field[Any]) -> str:
    value = member.default
    if value is MISSING:
        return "see there"  # what it depends on is said beside it
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value) or "empty"
    if isinstance(value, int) and value >= 1024 and value % 1024 == 0:
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f"{value} ({value // size} {unit})" if value >= 1 << 16 else str(value)
    return f"`{value}`" if isinstance(value, str) else str(value)


def main() -> None:
    """Write the document."""
    argparse.ArgumentParser(
        prog="python -m tools.settings_reference", description=f"Write {TARGET.name} anew."
    ).parse_args()
    TARGET.write_text(reference())


if __name__ == "__main__":
    main()
