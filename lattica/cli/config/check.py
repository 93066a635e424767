"""`lattica config check`: everything that is wrong with a configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import EXIT_FAILURE
from lattica.cli.shared.global_options import GlobalOptions
from lattica.cli.shared.options import named_path
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.nat.base.errors import ConfigError


def check_command(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE.toml]", parser=named_path, help="By default that of --config."
        ),
    ] = None,
    relay: Annotated[
        bool, typer.Option("--relay", help="Whether `lattica relay` can run with it, too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each mistake, one a line.")
    ] = False,
) -> None:
    """Say everything that is wrong with the configuration, and exit with 1 if anything is.

    A line a mistake: FILE:LINE: setting: what is wrong. Nothing is started.
    """
    from lattica.cli.config.conflicts import conflicts, relay_conflicts
    from lattica.config import config_problems

    options = ctx.find_object(GlobalOptions) or GlobalOptions()
    path = file or options.config_file
    found = config_problems(
        path, os.environ, options.overrides, relay_conflicts if relay else conflicts
    )
    for problem in sorted(found, key=_in_order):
        if as_json:
            say_json(_parts(problem))
        else:
            say(_line(problem))
    if found:
        raise SystemExit(EXIT_FAILURE)
    if not as_json:
        say(f"{path or 'the configuration'}: nothing is wrong")


def _in_order(problem: ConfigError) -> int:
    from lattica.config import SettingError

    return (problem.line or 0) if isinstance(problem, SettingError) else 0


def _parts(problem: ConfigError) -> dict[str, object]:
    from lattica.config import SettingError

    if not isinstance(problem, SettingError):
        return {"source": None, "line": None, "setting": None, "problem": str(problem)}
    place = problem.place
    return {
        "source": place.source,
        "line": problem.line,
        "setting": place.name,
        "problem": problem.problem,
    }


def _line(problem: ConfigError) -> str:
    """As compilers write it, so that editors find the place."""
    from lattica.config import SettingError

    if not isinstance(problem, SettingError) or problem.line is None:
        return str(problem)
    return f"{problem.place.source}:{problem.line}: {problem.place.name}: {problem.problem}"
