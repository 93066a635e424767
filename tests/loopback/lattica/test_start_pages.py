"""What README and docs/start show runs as it is written there, and the commands exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lattica.cli import app

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "start").glob("*.md"))]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "README.md",
]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


# What is shown of a program that is elsewhere has no imports.
PROGRAMS = [
    pytest.param(code, id=f"{path.stem}-{number}")
    for path in PAGES
    for number, code in enumerate(blocks(path, "python"))
    if "import " in code
]


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATTICA_LISTEN", "/ip4/127.0.0.1/tcp/0")
    monkeypatch.setenv("LATTICA_NAT__PORT_MAPPING__ENABLED", "false")
    monkeypatch.setenv("LATTICA_DATA_DIR", str(tmp_path))


@pytest.mark.parametrize("code", PROGRAMS)
def test_program(code: str) -> None:
    exec(compile(code, "shown", "exec"), {"__name__": "__main__"})


def test_each_reader_has_a_page_with_a_program() -> None:
    assert [path.stem for path in PAGES[1:]] == ["checkpoints", "embed", "move", "relay", "stress"]
    assert all(any("import " in code for code in blocks(path, "python")) for path in PAGES)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_is_imported_is_there(path: Path) -> None:
    for code in blocks(path, "python"):
        tree = compile(code, str(path), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lattica"):
                module = importlib.import_module(str(node.module))
                missing = [each.name for each in node.names if not hasattr(module, each.name)]
                assert not missing, f"{node.module} has no {missing}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_their_options_exist(path: Path) -> None:
    shown = re.findall(r"^(?:\$ )?lattica (.*)$", "\n".join(blocks(path, "\\w*")), re.M)
    for line in shown:
        command: Any = typer.main.get_command(app)
        known_commands = command.commands
        known = {"--help", *options(command)}
        words = shlex.split(line, comments=True)
        for word in words:
            if word in getattr(command, "commands", {}):
                command = command.commands[word]
                known |= options(command)
            elif word.startswith("--"):
                assert word.partition("=")[0] in known, f"lattica {line}: {word}"
        assert words[0].startswith("-") or words[0] in known_commands, f"lattica {line}"


def options(command: Any) -> set[str]:
    return {each for of in command.params for each in (*of.opts, *of.secondary_opts)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"
