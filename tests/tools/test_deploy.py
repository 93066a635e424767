"""The files of `tools/deploy` name what there is: commands, options, extras, ports, settings."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lattica.cli import app
from lattica.cli.relay.serve import PORTS, STUN_PORTS
from tools.netlab.wire.forwarder_client import PROJECT

DEPLOY = PROJECT / "tools" / "deploy"
UNITS = ("lattica-relay.service", "lattica-node.service")
FOLDER = "/opt/lattica"


def instructions() -> list[tuple[str, str]]:
    """Of the Containerfile: keyword and rest, continued lines joined."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    return [(word, rest) for word, rest in pairs]


def project() -> dict[str, object]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]


def check_command(arguments: list[str]) -> None:
    """These are a command with its options: help of it comes without a mistake."""
    done = CliRunner().invoke(app, [*arguments, "--help"])
    assert done.exit_code == 0, done.output


def test_the_container_runs_a_command_that_the_wheel_has():
    found = dict(instructions())
    entry, command = json.loads(found["ENTRYPOINT"]), json.loads(found["CMD"])
    variables = dict(each.split("=", 1) for each in found["ENV"].split())
    data_dir = variables["LATTICA_DATA_DIR"]
    assert entry[0] == "lattica"
    assert f"{FOLDER}/bin" in variables["PATH"].split(":")
    scripts = project()["scripts"]
    assert isinstance(scripts, dict)
    assert "lattica" in scripts
    check_command([*entry[1:], *command])
    assert found["VOLUME"] == data_dir
    assert found["STOPSIGNAL"] == "SIGTERM"  # it drains
    assert found["USER"] != "root"
    user = dict(instructions())["USER"]
    made = next(rest for word, rest in instructions() if word == "RUN" and "useradd" in rest)
    assert re.search(rf"useradd .* {user}\b", made)
    assert re.search(rf"install -d -o {user} -m 0700 {data_dir}", made)


def test_the_container_copies_what_there_is_and_installs_extras_that_there_are():
    stages = set()
    for word, rest in instructions():
        if word == "FROM":
            image, *named = rest.split(" AS ")
            stages |= set(named)
            version = re.fullmatch(r"docker\.io/library/python:(\d+)\.(\d+)-slim", image)
            assert version is not None
            needed = re.fullmatch(r">=(\d+)\.(\d+)", str(project()["requires-python"]))
            assert needed is not None
            assert tuple(map(int, version.groups())) >= tuple(map(int, needed.groups()))
        elif word == "COPY" and rest.startswith("--from="):
            stage, source, target = rest.split()
            assert stage.removeprefix("--from=") in stages
            assert source == target == FOLDER
        elif word == "COPY":
            assert (PROJECT / rest.split()[0]).exists()
    install = next(rest for word, rest in instructions() if "pip install" in rest)
    extras = re.search(r"/src\[(.*?)\]", install)
    assert extras is not None
    optional = project()["optional-dependencies"]
    assert isinstance(optional, dict)
    assert set(extras[1].split(",")) <= optional.keys()


def test_the_container_opens_the_ports_of_a_relay():
    exposed = set(dict(instructions())["EXPOSE"].split())
    ports = {(addr.split("/")[4], addr.split("/")[3]) for addr in (*PORTS, *STUN_PORTS)}
    assert exposed == {f"{number}/{protocol}" for number, protocol in ports}


def test_what_is_kept_out_of_the_image_is_not_needed_for_the_wheel():
    kept_out = (PROJECT / ".dockerignore").read_text().split("\n")
    assert {".git", ".venv", ".cache"} <= set(kept_out)
    needed = ("pyproject.toml", "setup.py", "README.md", "MANIFEST.in", "lattica", "nat", "rpc")
    assert not set(needed) & set(kept_out)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_runs_commands_that_there_are(unit: str):
    text = (DEPLOY / unit).read_text()
    commands = re.findall(r"^ExecStart(?:Pre)?=(.*)$", text, re.M)
    assert len(commands) == 2
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == f"{FOLDER}/bin/lattica"
        check_command(arguments)
    for wanted in ("Type=notify", "DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict"):
        assert f"\n{wanted}\n" in text
    folder = re.search(r"^StateDirectory=(\S+)$", text, re.M)
    assert folder is not None
    assert f"--data-dir /var/lib/{folder[1]} " in commands[1]


def test_what_a_reload_reads_is_the_file_and_no_copy_of_the_start():
    """`LoadCredential=` copies once: `systemctl reload` found the file as it was."""
    text = (DEPLOY / "lattica-relay.service").read_text()
    commands = re.findall(r"^ExecStart(?:Pre)?=(.*)$", text, re.M)
    assert re.search(r"^ExecReload=.*-HUP", text, re.M)
    assert all("--config /etc/lattica/relay.toml" in each for each in commands)


def test_two_services_on_a_machine_have_a_key_each():
    texts = [(DEPLOY / unit).read_text() for unit in UNITS]
    found = [re.findall(r"^StateDirectory=(\S+)$", text, re.M) for text in texts]
    assert len({*map(tuple, found)}) == len(UNITS)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit_and_little_exposed(tmp_path: Path, unit: str):
    program = Path(sys.executable)
    text = (DEPLOY / unit).read_text().replace(f"{FOLDER}/bin/lattica", str(program))
    copy = tmp_path / unit
    copy.write_text(text)
    run = {"capture_output": True, "text": True, "check": False, "timeout": 60}
    verified = subprocess.run(["systemd-analyze", "verify", str(copy)], **run)  # type: ignore[call-overload]
    about = [line for line in verified.stderr.splitlines() if unit in line]
    assert (verified.returncode, about) == (0, [])
    command = ["systemd-analyze", "security", "--offline=true", str(copy)]
    judged = subprocess.run(command, **run)  # type: ignore[call-overload]
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged.stdout)
    if level is not None:  # older ones cannot judge a file
        assert float(level[1]) <= 2.0
