"""What is wrong with a configuration is all said, each with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lattica.cli import app
from lattica.cli.config.conflicts import conflicts, relay_conflicts
from lattica.cli.config.init import Profile
from lattica.config import SettingError, config_problems, load_config
from lattica.config.lines import line_of
from lattica.errors import ConfigError

TEXT = '''# a comment

"log_level" = "info" # after it
listen = [
  "a",  # listen = 1

  "b",
]
text = """
swarm = 1
"""
swarm.limits.max_connections = 1
[swarm.timeouts]

dial = 1
[ "dht" ]
enabled = true
[nat."relay server"]
inline = { a = 1, b = { c = 2 } }
[[tables]]
x = 1
'''


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("log_level", 3),
        ("listen", 4),
        ("text", 9),
        ("swarm.limits.max_connections", 12),
        ("swarm.limits", 12),
        ("swarm.timeouts", 13),
        ("swarm.timeouts.dial", 15),
        ("dht", 16),
        ("dht.enabled", 17),
        ("nat.relay server", 18),
        ("nat.relay server.inline", 19),
        ("nat.relay server.inline.b.c", 19),
        ("tables", 20),
        ("nothing", None),
    ],
)
def test_lines(name, line):
    assert line_of(TEXT, name) == line
    assert line_of(TEXT.replace("\n", "\r\n"), name) == line


FILLER = st.sampled_from(["", "# x = 1", "y{} = 1", "z{} = [\n1,\n2,\n]", 'w{} = """\nx = 1\n"""'])


@given(st.lists(FILLER, max_size=12), st.lists(FILLER, max_size=12))
def test_the_line_is_found_among_whatever_there_is(before, after):
    parts = [part.format(number) for number, part in enumerate([*before, "x = 1", *after])]
    text = "\n".join(parts)
    expected = sum(part.count("\n") + 1 for part in parts[: len(before)]) + 1
    assert line_of(text, "x") == expected


def found(tmp_path: Path, text: str, check=conflicts, **environment: str) -> list[str]:
    file = tmp_path / "file.toml"
    file.write_text(text)
    return [
        str(each).removeprefix(f"{file}: ")
        for each in config_problems(file, environment, None, check)
    ]


ALL_WRONG = """log_level = 7
max_circuits = 1
[swarm.limts]
x = 1
[nat.relay_server]
access = "any"
allow_peers = ["x"]
[metrics]
listen = ["localhost:1"]
"""


def test_everything_is_said_at_once(tmp_path):
    problems = found(tmp_path, ALL_WRONG, LATTICA_COLOUR="red")
    assert problems[0] == "environment variable LATTICA_COLOUR: there is no such setting"
    assert [re.findall(r"\(line (\d)\)$", problem) for problem in problems[1:]] == [
        ["1"], ["2"], ["3"], ["7"], ["6"], ["9"],
    ]  # fmt: skip
    assert problems[1] == "log_level: expected a text, not 7 (line 1)"


LISTEN_99999 = 'listen = ["/ip4/127.0.0.1/tcp/99999"]'
TWICE = 'bootstrap = ["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1"]'
OPEN_AND_ALLOW = """[nat.relay_server]
access = "allow"
[nat.relay_server.limits]
open_to_strangers = true"""
ONE_PORT = """listen = ["/ip4/0.0.0.0/tcp/9464"]
[metrics]
listen = ["127.0.0.1:9464"]"""
PAGE_TOO = """listen = ["/ip4/0.0.0.0/tcp/4080"]
[node]
page = "127.0.0.1:4080\""""
PAGE_AND_METRICS = """[metrics]
listen = ["127.0.0.1:4080"]
[node]
page = "127.0.0.1:4080\""""
NO_VARIABLE = '[metrics]\ntoken = "env:NO_SUCH"'


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("[nat.relay_server]\nalow_peers = []", "did you mean nat.relay_server.allow_peers?", 2),
        ("max_connections = 1", "swarm.limits.max_connections", 1),
        ("[relay]\nopen_to_strangers = 1", "nat.relay_server.limits.open_to_strangers", 2),
        (LISTEN_99999, "listen: '/ip4/127.0.0.1/tcp/99999' is not a multiaddr", 1),
        (TWICE, "bootstrap: /ip4/1.2.3.4/tcp/1 is named 2 times", 1),
        ("listen = []\n[swarm]\nlisten = []", "sets the same as", 3),
        (OPEN_AND_ALLOW, "nat.relay_server.access: expected everyone", 2),
        (ONE_PORT, "metrics.listen: port 9464 is one of swarm.listen", 3),
        (PAGE_TOO, "node.page: port 4080 is one of swarm.listen", 3),
        (PAGE_AND_METRICS, "node.page: port 4080 is one of metrics.listen", 4),
        ('node.page = "127.0.0.1:99999"', "node.page: expected HOST:PORT", 1),
        ('node.page = "0.0.0.0:4080"', "node.page: expected an address on loopback", 1),
        ('node.page = "127.0.0.1"', "node.page: expected HOST:PORT", 1),
        (NO_VARIABLE, "metrics.token: cannot read env:NO_SUCH", 2),
        ('[nat.relay]\ntokens = ["lrt1-x"]', "nat.relay.tokens: the token of a relay", 2),
        ('[relay.service]\nurl = "ftp://x"', "relay.service.url: expected a URL", 2),
        ("\nswarm = 1", "swarm: is a group of settings", 2),
    ],
)
def test_mistakes(tmp_path, text, said, line):
    (problem,) = found(tmp_path, text)
    assert said in problem
    assert problem.endswith(f"(line {line})")


def test_a_relay_for_nobody_or_without_its_service(tmp_path):
    assert found(tmp_path, "") == []
    (nobody,) = found(tmp_path, "", relay_conflicts)
    assert "would serve nobody" in nobody
    (nowhere,) = found(tmp_path, '[nat.relay_server]\naccess = "http"', relay_conflicts)
    assert nowhere.startswith("nat.relay_server.access: ")
    assert nowhere.endswith("(line 2)")
    assert "relay.service.url" in nowhere


def test_what_is_raised_is_the_first_of_them(tmp_path):
    file = tmp_path / "file.toml"
    file.write_text("\nlog_level = 7\n")
    with pytest.raises(
        SettingError, match=r"file\.toml: log_level: expected .* \(line 2\)$"
    ) as caught:
        load_config(file, {})
    assert caught.value.place.line == 2
    (unreadable,) = config_problems(tmp_path / "none.toml", {})
    assert isinstance(unreadable, ConfigError)


def test_the_command(tmp_path):
    file = tmp_path / "file.toml"
    file.write_text("\nlog_level = 7\ncolour = 1\n")
    runner = CliRunner()
    result = runner.invoke(app, ["config", "check", str(file)])
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{file}:2: log_level: expected a text, not 7",
        f"{file}:3: colour: there is no such setting",
    ]
    result = runner.invoke(app, ["--config", str(file), "config", "check", "--json"])
    assert json.loads(result.stdout.splitlines()[0]) == {
        "source": str(file),
        "line": 2,
        "setting": "log_level",
        "problem": "expected a text, not 7",
    }


@pytest.mark.parametrize("profile", Profile)
def test_what_init_writes_is_right(tmp_path, profile):
    runner, file = CliRunner(), tmp_path / "new.toml"
    command = ["config", "init", "--for", profile.value, str(file)]
    assert runner.invoke(app, command).exit_code == 0
    is_relay = profile is Profile.RELAY
    assert config_problems(file, {}, None, relay_conflicts if is_relay else conflicts) == []
    again = runner.invoke(app, command)
    assert again.exit_code == 1
    assert "not overwritten" in again.stderr
