"""The command line: cheap to start, and errors that a person can act on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from typer.testing import CliRunner

from lattica.cli import app
from lattica.cli.common import reported_errors
from lattica.errors import ConfigError, DialError, LatticaError

pytestmark = pytest.mark.usefixtures("restored_logging")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(result.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not modules_after("import lattica") & {"trio", "libp2p", "cryptography", "tomllib"}


def test_importing_a_floor_leaves_the_others_alone() -> None:
    loaded = modules_after("import lattica.nat.config")
    assert not loaded & {"lattica.rpc", "lattica.crdt", "lattica.dht", "lattica.node"}


def test_help_imports_nothing_heavy() -> None:
    statement = "import lattica.cli"
    assert not modules_after(statement) & {"trio", "libp2p", "cryptography", "numpy", "rich.live"}


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
