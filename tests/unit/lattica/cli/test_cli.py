"""The command line: cheap to start, and errors that a person can act on."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import typer.main
from typer.testing import CliRunner

from lattica.cli import MODULES, app
from lattica.cli.shared.common import reported_errors, start
from lattica.cli.shared.options import json_or_text
from lattica.config import load_config
from lattica.errors import ConfigError, DialError, KeyInUseError, LatticaError
from lattica.nat.base.errors import DialAttempt
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.swarm_key import parse_swarm_key
from lattica.nat.base.limits.shortages import shortage_in


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(result.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not modules_after("import lattica") & {"trio", "libp2p", "cryptography", "tomllib"}


def test_the_configuration_is_read_without_what_a_node_runs_on() -> None:
    """`lattica id`, `status` and what is done by the node that runs here need nothing else."""
    loaded = modules_after("import lattica.config")
    assert not loaded & {"trio", "libp2p", "ssl", "lattica.nat.mux.connection", "lattica.content"}


def test_importing_a_floor_leaves_the_others_alone() -> None:
    loaded = modules_after("import lattica.nat.config")
    assert not loaded & {"lattica.rpc", "lattica.crdt", "lattica.dht", "lattica.node"}


def test_a_command_is_found_without_the_others() -> None:
    loaded = modules_after(
        "import typer.main, lattica.cli\ntyper.main.get_command(lattica.cli.app).commands['id']"
    )
    assert not loaded & {"trio", "libp2p", "cryptography", "numpy", "rich.live"}
    assert {name for name in loaded if name in MODULES} == {"lattica.cli.node"}


@pytest.mark.parametrize("module", MODULES)
def test_each_module_adds_the_commands_that_are_looked_for_in_it(module: str) -> None:
    added = typer.Typer()
    importlib.import_module(module).register(added)
    group: Any = typer.main.get_group(added)
    assert sorted(group.commands) == sorted(MODULES[module])


def test_every_export_exists() -> None:
    import lattica

    for name in lattica.__all__:
        assert getattr(lattica, name) is not None
    assert set(lattica.__all__) <= set(dir(lattica))
    with pytest.raises(AttributeError, match="no attribute 'Typo'"):
        _ = lattica.Typo  # type: ignore[attr-defined]


def test_id_makes_a_key_once(tmp_path: Path) -> None:
    runner = CliRunner()
    first = runner.invoke(app, ["--data-dir", str(tmp_path), "id"])
    assert first.exit_code == 0
    again = runner.invoke(app, ["--data-dir", str(tmp_path), "id", "--json"])
    shown = json.loads(again.stdout)
    assert shown["peer_id"] == first.stdout.strip().splitlines()[-1]
    assert shown["created"] is False
    assert Path(shown["key_file"]).stat().st_mode & 0o777 == 0o600


def test_a_readable_key_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    runner = CliRunner()
    key = tmp_path / "identity.key"
    runner.invoke(app, ["--identity", str(key), "id"])
    key.chmod(0o644)
    result = runner.invoke(app, ["--identity", str(key), "id"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert f"chmod 600 {key}" in result.stderr


def test_bad_configuration_and_bad_usage(tmp_path: Path) -> None:
    runner = CliRunner()
    file = tmp_path / "bad.toml"
    file.write_text("colour = 1")
    result = runner.invoke(app, ["--config", str(file), "id"])
    assert result.exit_code == 1
    assert f"{file}: colour" in result.stderr
    assert runner.invoke(app, ["--bogus"]).exit_code == 2
    assert runner.invoke(app, ["nonsense"]).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["fetch", "nonsense"],
        ["fetch", "lattica1x"],
        ["diff", ".", "lattica1" + "a" * 400],
        ["forward", "nobody", "80"],
        ["forward", str(PeerId(b"\x00\x02\x08\x01")), "no-port:80"],
        ["expose", "99999"],
        ["expose", "abc"],
        ["expose", "80", "--to", "nobody"],
        ["node", "--listen", "nonsense"],
        ["node", "--connect", "nonsense"],
        ["node", "--ephemeral", "--identity", "x.key"],
        ["relay"],
        ["relay", "--allow", "nobody"],
        ["doctor", "--relay", "/ip4/127.0.0.1/tcp/4001"],
        ["id", "--log-level", "loud"],
    ],
    ids=" ".join,
)
def test_arguments_that_our_own_checks_refuse(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("lattica: error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["publish", ".", "--connect", ""], "--connect: '' is not a multiaddr"),
        (["publish", ".", "--listen", ""], "--listen: '' is not a multiaddr"),
        (["publish", ".", "--relay", ""], "--relay: '' is not a multiaddr"),
        (["relay", "--allow", "bob"], "--allow: 'bob' is not a peer ID"),
        (["relay", "--access", "some"], "--access: expected one of everyone"),
    ],
    ids=" ".join,
)
def test_an_option_is_called_as_it_is_given(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_help_breaks_lines_where_the_terminal_does_and_keeps_examples() -> None:
    shown = CliRunner().invoke(app, ["relay", "--help"], env={"COLUMNS": "300"}).stdout
    assert "It needs a public address, and listens on port 4001" in shown
    assert "     lattica relay --allow 12D3KooW… --allow 12D3KooX… " in shown


def test_an_option_of_zero_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    """As `lattica expose 80 --idle 0` has it, with no other option."""
    ctx: Any = typer.Context(typer.main.get_command(app))
    with pytest.raises(SystemExit) as ended:
        start(ctx, {"ports.idle_timeout": 0.0, "listen": None})
    assert ended.value.code == 2
    assert "ports.idle_timeout" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--config", "--data-dir", "--identity"])
def test_an_empty_path_is_not_this_directory(option: str) -> None:
    result = CliRunner().invoke(app, ["id", option, ""])
    assert (result.exit_code, "it is empty" in result.stderr) == (2, True)


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return {"": group, **group.commands}


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_of_every_command(name: str) -> None:
    arguments = [name] if name else []
    helped = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "200"})
    assert helped.exit_code == 0
    assert "bool" not in helped.stdout
    assert (
        CliRunner().invoke(app, [*arguments, "-h"], env={"COLUMNS": "200"}).output == helped.output
    )
    for option in ("--config", "--log-level", "--log-json", "--data-dir", "--identity"):
        assert option in helped.stdout


def test_options_of_all_commands_may_come_before_or_after(tmp_path: Path) -> None:
    runner = CliRunner()
    places = [tmp_path / "one", tmp_path / "two"]
    ids = [runner.invoke(app, ["id", "--data-dir", str(place)]).stdout for place in places]
    before = runner.invoke(app, ["--data-dir", str(places[0]), "id"])
    assert ids[0] == before.stdout != ids[1]
    last = runner.invoke(app, ["--data-dir", str(places[0]), "id", "--data-dir", str(places[1])])
    assert last.stdout == ids[1]
    key = places[0] / "identity.key"
    named = runner.invoke(app, ["id", "--identity", str(key), "--log-json", "--log-level", "error"])
    assert named.stdout == ids[0]
    file = tmp_path / "node.toml"
    file.write_text(f"identity_path = {str(key)!r}")
    assert runner.invoke(app, ["id", "--config", str(file)]).stdout == ids[0]
    assert runner.invoke(app, ["id"], env={"LATTICA_CONFIG": str(file)}).stdout == ids[0]
    wrong = runner.invoke(app, ["id", "--log-level", "loud"])
    assert (wrong.exit_code, "log_level" in wrong.stderr) == (2, True)
    assert runner.invoke(app, ["id", "--log-level", "ERROR"]).exit_code == 0


def test_it_is_a_module_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lattica", "id", "--data-dir", str(tmp_path)]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert first.stdout == second.stdout != ""


def test_the_key_of_a_private_network(tmp_path: Path) -> None:
    runner = CliRunner()
    file = tmp_path / "swarm.key"
    assert runner.invoke(app, ["swarm-key", str(file)]).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    key = parse_swarm_key(file.read_bytes())
    environment = {"LATTICA_PRIVATE_NETWORK_KEY_FILE": str(file)}
    assert load_config(environment=environment).swarm.private_network_key == key
    again = runner.invoke(app, ["swarm-key", str(file)])
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert parse_swarm_key(file.read_bytes()) == key
    other = tmp_path / "other"
    runner.invoke(app, ["swarm-key", str(other)])
    assert parse_swarm_key(other.read_bytes()) != key
    assert runner.invoke(app, ["swarm-key", "/dev/null/no"]).exit_code == 1
    missing = runner.invoke(app, ["swarm-key", str(tmp_path / "no" / "swarm.key")])
    assert (missing.exit_code, "is no directory" in missing.stderr) == (1, True)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("moment", ["lattica.cli.shared.common", "trio", "lattica.nat.swarm.swarm"])
def test_ctrl_c_while_it_is_being_imported(moment: str, tmp_path: Path) -> None:
    """The interpreter says what it has imported; at one of these moments it is interrupted."""
    command = [sys.executable, "-X", "importtime", "-m", "lattica", "node", "--ephemeral"]
    environment = {**os.environ, "LATTICA_DATA_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}

    def heed() -> None:  # the tests may be run in the background of a shell, which ignores it
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heed
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rsplit("|")[-1].strip() == moment:
                break
        process.send_signal(signal.SIGINT)
        try:
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Traceback" not in rest
    # Where this process is slower than the other, that one is not importing any more.
    assert process.returncode in (-signal.SIGINT, 0, 130)


def exit_code_of(error: BaseException) -> object:
    with pytest.raises(SystemExit) as caught, reported_errors():
        raise error
    return caught.value.code


def test_errors_of_several_tasks_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    errors = [ConfigError("one\nand more"), DialError("X", []), ConfigError("one\nand more")]
    assert exit_code_of(ExceptionGroup("g", errors)) == 1
    assert capsys.readouterr().err.splitlines() == [
        "lattica: error: one and more",
        "lattica: error: cannot connect to X: no address known",
    ]


@pytest.mark.parametrize(
    ("text", "value"), [("[1]", [1]), ("[1", "[1"), ("NaN", "NaN"), ("Infinity", "Infinity")]
)
def test_a_value_is_json_or_a_text(text: str, value: object) -> None:
    assert json_or_text(text) == value


def test_a_value_that_is_nested_too_deeply_is_said() -> None:
    with pytest.raises(ConfigError, match="too deeply"):
        json_or_text("[" * 100_000)


def test_that_something_took_too_long_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(ExceptionGroup("g", [TimeoutError("no peer has it")])) == 1
    assert capsys.readouterr().err == "lattica: error: no peer has it\n"


@pytest.mark.parametrize(("why", "is_explained"), [("ECONNREFUSED", True), ("timed out", False)])
def test_a_peer_whose_program_has_ended_is_explained(
    why: str, is_explained: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(DialError("X", [DialAttempt("/ip4/192.0.2.1/tcp/1", why)])) == 1
    assert ("publisher" in capsys.readouterr().err) is is_explained


def test_a_directory_that_takes_no_key_names_what_needs_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["--data-dir", str(tmp_path / "file" / "below"), "id"])
    assert result.exit_code == 1
    assert "cannot write the key file" in result.stderr
    assert "--ephemeral" in result.stderr


def test_a_new_key_where_one_is_needs_another_name_and_no_other_advice(tmp_path: Path) -> None:
    (tmp_path / "k").touch()
    result = CliRunner().invoke(app, ["key", "new", str(tmp_path / "k")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "exists already" in result.stderr


@pytest.mark.parametrize("arguments", [["id"], ["key", "show"], ["store", "ls"]], ids=" ".join)
def test_a_path_longer_than_the_system_takes_is_a_line_that_can_be_read(
    arguments: list[str], tmp_path: Path
) -> None:
    long = str(tmp_path.joinpath(*["x" * 200] * 25))
    result = CliRunner().invoke(app, ["--data-dir", long, *arguments])
    assert result.exit_code == 1
    assert result.stderr.startswith("lattica: error: ")
    assert len(result.stderr) < 1500


def test_ctrl_c_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(KeyboardInterrupt()) == 130
    group = BaseExceptionGroup("g", [KeyboardInterrupt(), LatticaError("torn down")])
    assert exit_code_of(group) == 130
    assert capsys.readouterr().err == ""


def test_bugs_keep_their_traceback() -> None:
    bug = ExceptionGroup("g", [ConfigError("x"), ValueError("bug")])
    with pytest.raises(ExceptionGroup) as caught, reported_errors():
        raise bug
    assert caught.value is bug
    with pytest.raises(trio.BrokenResourceError), reported_errors():
        raise trio.BrokenResourceError


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is no memory left"),
        (RuntimeError("can't start new thread"), "there is no memory left"),
        (ExceptionGroup("", [ValueError(), MemoryError()]), "there is no memory left"),
        (OSError(errno.ENFILE, "Too many open files in system"), "Too many open files in system"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (caused_by(trio.TrioInternalError("internal error"), MemoryError()), "no memory left"),
        (caused_by(trio.TrioInternalError("internal error"), KeyError(1)), None),
        (RuntimeError("something else"), None),
        (OSError(errno.EIO, "Input/output error"), None),
    ],
)
def test_what_the_system_has_no_more_of_is_no_bug(error, said):
    found = shortage_in(error)
    assert (found is None) if said is None else (found is not None and said in found)


def test_a_program_without_memory_ends_with_a_line_and_waits_for_nothing():
    program = """
import atexit, threading
from lattica import cli

def app(**_):
    raise MemoryError

cli.app = app
atexit.register(threading.Event().wait)  # as grpcio waits for threads that could not be started
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("lattica: error: there is no memory left")


def test_a_thread_that_ends_for_want_of_memory_ends_the_program():
    program = """
import threading
from lattica import cli

def app(**_):
    def run():
        raise RuntimeError("can't start new thread")
    threading.Thread(target=run).start()
    threading.Event().wait()  # for what the thread was to do

cli.app = app
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("lattica: error: there is no memory left")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_key_that_a_node_without_grpcio_has_is_explained(
    is_there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lattica.daemon.api.grpc_needed.has_grpc", lambda: is_there)
    with pytest.raises(SystemExit), reported_errors():
        raise KeyInUseError("the key is in use")
    said = capsys.readouterr().err
    assert said.startswith("lattica: error: the key is in use\n")
    assert ("pip install 'lattica-stack[grpc]'" in said) is not is_there
