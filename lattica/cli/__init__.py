"""The `lattica` command.

Commands live in modules beside this one, each of which is imported when one of its commands is
asked for (:data:`MODULES`). It has a `register(app)` that adds them, and imports what is heavy
(trio, rich) inside them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lattica.cli.shared.commands import Commands
from lattica.cli.shared.common import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    fail,
    reported_errors,
    take_any_text,
)
from lattica.cli.shared.global_options import (
    GlobalOptions,
    allow_after,
    unfold_help,
    without_types_of_flags,
)
from lattica.cli.shared.options import named_path
from lattica.cli.shared.shortage import end_for_want, end_with_threads
from lattica.cli.shared.terminal import (
    OutputError,
    guard_output,
    guarded_output,
    open_missing_descriptors,
    say,
    say_traceback,
)
from lattica.nat.base.limits.shortages import shortage_in
from lattica.nat.base.printable import printable

MODULES = {
    "lattica.cli.node": ("node", "id"),
    "lattica.cli.status": ("status", "peers", "paths", "top"),
    "lattica.cli.doctor": ("doctor",),
    "lattica.cli.content.publish": ("publish",),
    "lattica.cli.content.fetch": ("fetch",),
    "lattica.cli.content.by_node": ("unpublish",),
    "lattica.cli.content.diff": ("diff",),
    "lattica.cli.content.hf_door": ("hf-door",),
    "lattica.cli.ports": ("expose", "forward"),
    "lattica.cli.swarm_key": ("swarm-key",),
    "lattica.cli.relay": ("relay",),
    "lattica.cli.content.store": ("store",),
    "lattica.cli.topic": ("topic",),
    "lattica.cli.dht": ("dht",),
    "lattica.cli.crdt": ("crdt",),
    "lattica.cli.config": ("config",),
    "lattica.cli.key": ("key",),
}
"""Where each command is; in the order of the help: groups of commands come last."""


@contextmanager
def _printable_usage_errors() -> Iterator[None]:
    """What is wrong with the arguments is printed by rich, and may quote what was pasted."""
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        if hasattr(error, "format_message") and isinstance(message, str):
            error.message = printable(message)  # type: ignore[attr-defined]
        raise


class _Commands(TyperGroup):
    """Guards output and reports errors the same way however a command is invoked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands: Any = Commands(MODULES)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with guarded_output():
            return super().main(*args, **kwargs)

    def get_params(self, ctx: Any) -> Any:
        return without_types_of_flags(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            allow_after(self, command, ctx)
            unfold_help(command)
        return command

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _printable_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _printable_usage_errors(), reported_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    help="The network layer for distributed AI: reach peers by key, fetch content by hash.",
    epilog="Exit status: 0 done; 1 failed, for the reason on standard error; 2 wrong arguments; "
    "3 `doctor` or `store verify` has found something bad; 130 Ctrl-C. What serves (`relay`, "
    "`node`, `expose`, `forward`, `topic sub`, and `publish` once it serves) ends with 0 on Ctrl-C "
    "and SIGTERM, and on SIGHUP, when its terminal is gone, which for `relay` means to read its "
    "configuration again; `publish` before that, and `fetch`: 128 and the signal's number. Without "
    "a command: this help, and 2.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # A traceback with local variables would print keys.
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import lattica

        say(f"lattica {lattica.__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="LATTICA_CONFIG",
            metavar="FILE.toml",
            parser=named_path,
            help="Configuration file.",
        ),
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log as JSON lines.")] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=named_path,
            help="Where the key and downloaded state are kept.",
        ),
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=named_path, help="Key file; made when there is none."),
    ] = None,
    no_daemon: Annotated[
        bool,
        typer.Option("--no-daemon", help="Do not use the `lattica node` that runs here, if any."),
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    options = ctx.find_object(GlobalOptions) or GlobalOptions()
    given = {"config": config, "log_level": log_level, "log_json": log_json, "data_dir": data_dir}
    for name, value in {**given, "identity": identity, "no_daemon": no_daemon}.items():
        options = options.given(name, value)
    ctx.obj = options


def main() -> None:
    """Entry point of the `lattica` command; exits the process."""
    open_missing_descriptors()
    take_any_text()
    guard_output()
    end_with_threads()
    try:
        app(prog_name="lattica")
    except KeyboardInterrupt:  # before a command has begun
        sys.exit(EXIT_INTERRUPTED)
    except OutputError as error:  # of the help, for instance
        fail(str(error))
        sys.exit(EXIT_FAILURE)
    except (Exception, BaseExceptionGroup) as bug:
        if (shortage := shortage_in(bug)) is not None:
            end_for_want(shortage)
        say_traceback(bug)
        sys.exit(EXIT_FAILURE)
