"""What all commands share: loading the configuration, running, and errors.

Import-light on purpose: whatever a command needs beyond this it imports when it runs, so that
`lattica --help` and shell completion answer at once.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from lattica.cli.shared.global_options import GlobalOptions
from lattica.cli.shared.terminal import say, throw_away
from lattica.nat.base.concurrency.exception_groups import leaves
from lattica.nat.base.errors import ConfigError, LatticaError

if TYPE_CHECKING:
    import typer

    from lattica.config import NodeConfig, SettingError

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

EXIT_FAILURE = 1
EXIT_USAGE = 2
"""Of click's own checks, and of ours (:func:`wrong_arguments`)."""
EXIT_BAD = 3
"""`lattica doctor` or `lattica store verify` has found something that is bad."""
EXIT_INTERRUPTED = 130
_LONG_WORD = 600
"""Characters; relayed addresses and tickets have fewer."""
_OPTIONS = {
    "bootstrap": "--connect",
    "listen": "--listen",
    "relays": "--relay",
    "nat.relay_server.access": "--access",
    "nat.relay_server.allow_peers": "--allow",
    "nat.relay_server.deny_peers": "--deny",
    "node.page": "--page",
}
"""That are called otherwise than what they set."""


def load_for(
    options: GlobalOptions,
    overrides: Mapping[str, object] | None = None,
    *,
    quiet: bool = False,
    serves_dht: bool = False,
    serves_rendezvous: bool = False,
) -> NodeConfig:
    """Load the configuration for a command; see :func:`start`. Raises ConfigError."""
    from lattica.config import load_config

    # What the environment says comes last, after the arguments and the file.
    environment = {
        **({"LATTICA_LOG_LEVEL": "warning"} if quiet else {}),
        **({"LATTICA_DHT__ENABLED": "true"} if serves_dht else {}),
        **({"LATTICA_DISCOVERY__POINT__SERVE": "true"} if serves_rendezvous else {}),
        **os.environ,
    }
    overrides = {**options.overrides, **_given(overrides)}
    return load_config(options.config_file, environment, overrides)


def _of_option(error: SettingError) -> ConfigError:
    """The error of a setting that an option was given for: it names that one."""
    option = _OPTIONS.get(error.place.name) if error.place.source == "argument" else None
    return error if option is None else ConfigError(f"{option}: {error.problem}")


def _given(overrides: Mapping[str, object] | None) -> dict[str, object]:
    """Those that are not left out: None and empty lists are, while 0 and False were said."""
    return {k: v for k, v in (overrides or {}).items() if v is not None and v != [] and v != ()}


def start(
    ctx: typer.Context,
    overrides: Mapping[str, object] | None = None,
    *,
    keep_identity: bool = True,
    ephemeral: bool = False,
    quiet: bool = False,
    serves_dht: bool = False,
    serves_rendezvous: bool = False,
) -> NodeConfig:
    """Load the configuration for a command, and set up logging as it says.

    `overrides` are the command's own options (dotted names); those whose value is None or empty
    were not given and are left out. With `keep_identity`, the key is that of the configured file,
    or of one in the data directory; without it, of the file given by `--identity`, or for this run
    only: the configured one may be in use by a peer that runs all the time. `ephemeral` is always
    a key for this run. `quiet` logs warnings only, `serves_dht` takes part in the DHT, and
    `serves_rendezvous` is a rendezvous point, unless something else is configured.
    Raises :class:`lattica.errors.ConfigError`.
    """
    from dataclasses import replace

    from lattica.config import SettingError, key_file_in
    from lattica.logs import setup_logging

    options = ctx.find_object(GlobalOptions) or GlobalOptions()
    load = partial(
        load_for, quiet=quiet, serves_dht=serves_dht, serves_rendezvous=serves_rendezvous
    )
    config = load(GlobalOptions(options.config_file))
    if _given(overrides) or options.overrides:
        with wrong_arguments():  # as it would do without them
            try:
                config = load(options, overrides)
            except SettingError as error:
                raise _of_option(error) from None
    setup_logging(config.log_level, as_json=options.log_json or config.log_json)
    named = "identity_path" in options.overrides
    if ephemeral:
        if named:
            with wrong_arguments():
                raise ConfigError(
                    "--identity names a key, --ephemeral makes a new one: give only one"
                )
        return replace(config, identity_path=None)
    if not keep_identity:
        return config if named else replace(config, identity_path=None)
    return replace(config, identity_path=config.identity_path or key_file_in(config.data_dir))


def run(function: Callable[[*Arguments], Awaitable[T]], *arguments: *Arguments) -> T:
    """Run an async function under trio to its end; from here on Ctrl-C is `KeyboardInterrupt`.

    It is raised where the function waits, and nowhere else: in a callback of the import machinery
    or of the garbage collector Python would print it and go on.
    """
    import trio

    import lattica.node  # noqa: F401 - takes a moment, in which Ctrl-C is to end the process
    from lattica.daemon.collector import spare_collector

    @trio.lowlevel.enable_ki_protection
    async def interruptible() -> T:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return await function(*arguments)

    spare_collector()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        # It waits until trio has its own handler in place.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return trio.run(interruptible)


def fail(message: str) -> None:
    """Write one error line to standard error. Of a word that nobody reads to its end, such as a
    path that is too long for the system, the ends are shown."""
    line = " ".join(map(_shortened, message.split())) or "unknown error"
    say(f"lattica: error: {line}", err=True)


def _shortened(word: str) -> str:
    return word if len(word) <= _LONG_WORD else f"{word[:100]}…{word[-60:]}"


@contextmanager
def wrong_arguments() -> Iterator[None]:
    """What is refused in here is an argument: one line, and click's exit code for such."""
    try:
        yield
    except LatticaError as error:
        fail(str(error))
        raise SystemExit(EXIT_USAGE) from None


def take_any_text() -> None:
    """Let output in a locale that lacks a character show its code instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _has_no_directory() -> bool:
    """Whether relative paths mean nothing, as the current directory was deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _give_up_output() -> bool:
    """Whether nobody reads standard output or error any more; what is left is thrown away."""
    closed = False
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            closed = True
            throw_away(descriptor)
    return closed


def _explain_used_key(causes: Iterable[BaseException]) -> None:
    """Where it may be the node that runs here that has the key, and grpcio is what is missing."""
    from lattica.daemon.api.grpc_needed import INSTALL, has_grpc
    from lattica.errors import KeyInUseError

    if any(isinstance(cause, KeyInUseError) for cause in causes) and not has_grpc():
        say(
            "lattica: if a `lattica node` has it, commands use that node where grpcio is "
            f"installed: {INSTALL}, and restart the node",
            err=True,
        )


def _explain_key_file(causes: Iterable[BaseException]) -> None:
    """Where no key can be kept, or the kept one not be read: what works without."""
    from lattica.errors import IdentityError, KeyInUseError

    elsewhere = (KeyInUseError, FileExistsError)  # they say themselves what to do
    if any(
        isinstance(e, IdentityError)
        and isinstance(e.__context__, OSError)
        and not isinstance(e, elsewhere)
        and not isinstance(e.__context__, elsewhere)
        for e in causes
    ):
        say(
            "lattica: --data-dir names another directory; with --ephemeral, where a command has "
            "it, the key is made for this run only",
            err=True,
        )


def _explain_unreachable(causes: Iterable[BaseException]) -> None:
    """Where a peer's machine says that nothing listens there, its program has probably ended."""
    from lattica.errors import DialError

    tried = [each for error in causes if isinstance(error, DialError) for each in error.attempts]
    if any("ECONNREFUSED" in each.error for each in tried):
        say(
            "lattica: nothing listens there: has the peer's program ended (a ticket is good while "
            "its publisher, or another peer that has the content, runs), or has it another port?",
            err=True,
        )


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn what a command raises into an exit code and at most one line a cause.

    A :class:`LatticaError`, or that something took too long, is the user's news: its message, exit
    code 1 (:func:`wrong_arguments`: 2). Ctrl-C exits quietly with 130. Standard output whose reader
    is gone (`| head`) ends the command quietly with 1. Anything else is a bug and keeps its
    traceback.
    """
    try:
        yield
    except (KeyboardInterrupt, LatticaError, OSError, BaseExceptionGroup) as error:
        found = leaves(error)
        if any(type(leaf) is BrokenPipeError for leaf in found) and _give_up_output():
            raise SystemExit(EXIT_FAILURE) from None
        if any(isinstance(leaf, FileNotFoundError) for leaf in found) and _has_no_directory():
            fail("the current directory does not exist any more; change to one that does")
            raise SystemExit(EXIT_FAILURE) from None
        causes = [leaf for leaf in found if not isinstance(leaf, KeyboardInterrupt)]
        if not all(isinstance(cause, (LatticaError, TimeoutError)) for cause in causes):
            raise
        if len(causes) < len(found):
            raise SystemExit(EXIT_INTERRUPTED) from None
        for message in dict.fromkeys(map(str, causes)):
            fail(message)
        _explain_used_key(causes)
        _explain_key_file(causes)
        _explain_unreachable(causes)
        raise SystemExit(EXIT_FAILURE) from None
