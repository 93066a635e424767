"""The configuration of who gives none, and `lattica config show`."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
from typer.testing import CliRunner

from lattica import AsyncLattica, Lattica
from lattica.cli import app
from lattica.config import NodeConfig, explain_config, load_config
from lattica.daemon.access.secrets import SECRET_TEXTS
from lattica.errors import ConfigError
from lattica.facades.facade import make_node
from lattica.node import Node


def test_the_file_that_the_environment_names(tmp_path, monkeypatch):
    file = tmp_path / "node.toml"
    file.write_text('log_level = "error"\nbootstrap = ["/ip4/192.0.2.1/tcp/1"]\n')
    other = tmp_path / "other.toml"
    other.write_text('log_level = "debug"\n')
    monkeypatch.setenv("LATTICA_CONFIG", str(file))
    monkeypatch.setenv("LATTICA_LOG_LEVEL", "info")
    assert load_config().log_level == "error"
    assert load_config(other).log_level == "debug"
    assert load_config(other).bootstrap == ()
    assert load_config(str(other)).log_level == "debug"
    assert load_config(environment={}).bootstrap == ()
    monkeypatch.setenv("LATTICA_CONFIG", "none.toml")
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml"):
        load_config()
    monkeypatch.setenv("LATTICA_CONFIG", "")
    assert load_config().bootstrap == ()


@pytest.mark.parametrize("name", ["Node", "Lattica", "AsyncLattica"])
def test_nodes_without_a_configuration_have_the_loaded_one(tmp_path, monkeypatch, name):
    file = tmp_path / "node.toml"
    file.touch(0o600)
    file.write_text('listen = []\nidentity_path = "key"\n')
    monkeypatch.setenv("LATTICA_CONFIG", str(file))
    monkeypatch.setenv("LATTICA_SWARM__LIMITS__MAX_CONNECTIONS", "77")
    for config in (None, load_config(), NodeConfig()):
        made = Node(config) if name == "Node" else make_node(config, None)
        loaded = not isinstance(config, NodeConfig) or config.swarm.listen == ()
        assert made.config.swarm.limits.max_connections == (77 if loaded else 4096)
        assert made.config.identity_path == (tmp_path / "key" if loaded else None)


@pytest.mark.parametrize("kind", [Node, Lattica, AsyncLattica])
@pytest.mark.parametrize("given", ["node.toml", {}, NodeConfig])
def test_what_is_no_configuration(kind, given):
    with pytest.raises(ConfigError, match=r"takes a NodeConfig, not .*load_config\(path\)"):
        kind(given)


@pytest.mark.parametrize("kind", [Node, Lattica, AsyncLattica, partial(Lattica, process=True)])
def test_settings_as_keywords_are_told_where_they_belong(kind):
    with pytest.raises(TypeError, match=r'no keyword listen: .*overrides=\{"listen": …'):
        kind(listen=["/ip4/127.0.0.1/tcp/0"])


def test_a_bad_environment_is_an_error_of_who_starts(monkeypatch):
    monkeypatch.setenv("LATTICA_SWARM__LIMITS__MAX_CONNECTIONS", "many")
    with pytest.raises(ConfigError, match="LATTICA_SWARM__LIMITS__MAX_CONNECTIONS"), Lattica():
        pass


RELAY = "/ip4/192.0.2.1/tcp/1/p2p/12D3KooWBHykBpSdobvEGRWre66uNeS98U7tVD7zLG3WszqD9pUx"


def test_where_each_setting_comes_from(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text(f'relays = ["{RELAY}"]\n[swarm.limits]\nmax_connections = 5\n')
    environment = {"LATTICA_SWARM__LIMITS__MAX_CONNECTIONS": "9", "LATTICA_LOG_LEVEL": "error"}
    found = {one.name: one for one in explain_config(file, environment, {"bootstrap": []})}
    assert found["swarm.limits.max_connections"].value == 5
    assert found["swarm.limits.max_connections"].source.startswith(str(file))
    assert found["log_level"].source == "environment variable LATTICA_LOG_LEVEL"
    assert found["bootstrap"].source == "argument bootstrap"
    assert found["nat.relay.relays"].source == f"{file}: relays"
    assert found["swarm.listen"].source == "default"
    assert found["data_dir"].source == "default"


def test_config_show_is_a_configuration(tmp_path):
    key = tmp_path / "swarm.key"
    key.touch(0o600)
    key.write_text("/key/swarm/psk/1.0.0/\n/base16/\n" + "ab" * 32 + "\n")
    file = tmp_path / "node.toml"
    file.touch(0o600)
    file.write_text(
        'private_network_key_file = "swarm.key"\nbootstrap = ["/dns4/b\u00fc.example/tcp/1"]\n'
        "[swarm]\ndial_from_listen_port = false\n"
    )
    shown = CliRunner().invoke(app, ["--config", str(file), "config", "show"])
    assert shown.exit_code == 0
    assert "abab" not in shown.stdout
    again = tmp_path / "again.toml"
    again.write_text(shown.stdout)
    config, expected = load_config(again, {}), load_config(file)
    assert config.swarm.private_network_key is None
    assert config.identity_path == expected.data_dir / "identity.key"
    swarm = replace(expected.swarm, private_network_key=None)
    assert config == replace(expected, swarm=swarm, identity_path=config.identity_path)

    changed = CliRunner().invoke(app, ["--config", str(file), "config", "show", "--changed"])
    assert f"swarm.dial_from_listen_port = false  # {file}: swarm.dial_from" in changed.stdout
    assert "max_connections" not in changed.stdout
    as_json = CliRunner().invoke(app, ["--config", str(file), "config", "show", "--json"])
    assert "abab" not in as_json.stdout
    objects = json.loads(as_json.stdout)
    assert objects["swarm.limits.max_connections"] == {"value": 4096, "source": "default"}
    assert objects["swarm.private_network_key"]["source"] == f"{file}: private_network_key_file"


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_config_show_tells_no_secret(monkeypatch, more):
    given = {
        "LATTICA_SWARM__PRIVATE_NETWORK_KEY": "ab" * 32,
        "LATTICA_NODE__PAGE_TOKEN": "ab" * 16,
        "LATTICA_METRICS__TOKEN": "abab",
        "LATTICA_RELAY__SERVICE__SECRET": "abab",
    }
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    shown = CliRunner().invoke(app, ["config", "show", "--changed", *more]).stdout
    assert "abab" not in shown
    assert "xab" not in shown
    assert shown.count("not shown") == len(given)
    monkeypatch.setenv("LATTICA_METRICS__TOKEN", "file:/run/token")  # where it is, is none
    assert "file:/run/token" in CliRunner().invoke(app, ["config", "show", *more]).stdout


def test_every_setting_that_holds_a_secret_as_text_is_known():
    names = {one.name for one in explain_config(environment={})}
    assert names >= set(SECRET_TEXTS)
    assert {name for name in names if name.endswith((".token", ".secret"))} == set(SECRET_TEXTS)
