"""Configuration: precedence, decoding by type, and errors that name source and setting."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.config import (
    NodeConfig,
    default_data_dir,
    explain_config,
    load_config,
)
from lattica.errors import ConfigError
from lattica.nat.config import AccessRules, Limits, SwarmConfig, Timeouts, Windows
from lattica.nat.traversal.autonat.config import AutonatServerConfig
from lattica.nat.traversal.relay.client.config import RelayClientConfig

KEY = bytes(range(32))
SWARM_KEY = f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex()}\n"


def write(folder: Path, text: str, name: str = "lattica.toml") -> Path:
    file = folder / name
    file.write_text(text)
    file.chmod(0o600)  # some have keys
    return file


def error_of(file=None, environment=None, overrides=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, environment or {}, overrides)
    return str(caught.value)


def test_defaults() -> None:
    config = load_config(None, {"XDG_DATA_HOME": "/data"})
    assert config == NodeConfig(data_dir=Path("/data/lattica"))
    assert config.identity_path is None
    assert config.swarm == SwarmConfig()


def test_data_dir_ignores_a_relative_xdg_path() -> None:
    home = Path("~/.local/share/lattica").expanduser()
    assert default_data_dir({"XDG_DATA_HOME": "relative"}) == home
    assert default_data_dir({}) == home


def test_precedence_is_per_setting(tmp_path: Path) -> None:
    file = write(tmp_path, "log_level = 'warning'\n[swarm.limits]\nmax_connections = 2\n")
    environment = {
        "LATTICA_LOG_LEVEL": "error",
        "LATTICA_SWARM__LIMITS__MAX_CONNECTIONS": "1",
        "LATTICA_SWARM__LIMITS__MAX_CONNECTIONS_PER_PEER": "5",
    }
    overrides = {"swarm.limits.max_connections": 3}
    config = load_config(file, environment, overrides)
    assert config.swarm.limits.max_connections == 3
    assert config.log_level == "warning"
    assert config.swarm.limits.max_connections_per_peer == 5
    assert config.swarm.limits.max_pending_inbound == Limits().max_pending_inbound


PEER = "12D3KooWBHykBpSdobvEGRWre66uNeS98U7tVD7zLG3WszqD9pUx"


@pytest.mark.parametrize(
    ("setting", "item", "said"),
    [
        ("relays", "foo", "is not a multiaddr"),
        ("relays", "/ip4/192.0.2.1/tcp/1", "must end in its /p2p/ID"),
        ("nat.relay.relays", f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}", "/p2p/ID"),
        ("listen", "/ip4/0.0.0.0/tcp/99999", "port '99999'"),
        ("listen", "0.0.0.0:4001", "write it as /ip4/0.0.0.0/tcp/4001"),
        ("bootstrap", f"/ip4/192.0.2.1/tcp/1/p2p/{PEER[:-1]}", "is not a multiaddr"),
        ("swarm.access.allow_peers", "me", "not a peer ID"),
        ("swarm.access.deny_peers", "me", "not a peer ID"),
        ("nat.relay_server.allow_peers", "me", "not a peer ID"),
    ],
)
def test_what_is_no_address_is_told_where_it_was_given(
    tmp_path: Path, setting: str, item: str, said: str
) -> None:
    variable = "LATTICA_" + setting.upper().replace(".", "__")
    file = write(tmp_path, f"{setting} = ['{item}']")
    for load in (load_config, explain_config):
        for where, arguments in (
            (f"environment variable {variable}", (None, {variable: item})),
            (f"{file}: {setting}", (file, {})),
            (f"argument {setting}", (None, {}, {setting: (item,)})),
        ):
            with pytest.raises(ConfigError) as caught:
                load(*arguments)
            assert str(caught.value).startswith(f"{where}: ")
            assert said in str(caught.value)


def test_a_group_that_is_misspelled_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean swarm\.limits\?"):
        load_config(write(tmp_path, "[swarm.limit]\nmax_connections = 5"), {})


def test_every_type_from_toml(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"""
        identity_path = "keys/me.key"
        bootstrap = ["/ip4/192.0.2.1/tcp/1/p2p/{PEER}", "/ip4/192.0.2.2/tcp/2"]
        data_dir = "/var/lib/lattica"
        listen = []

        [swarm]
        private_network_key = "{KEY.hex()}"
        dial_from_listen_port = false
        cipher = "chacha20-poly1305"

        [swarm.timeouts]
        dial = 3
        handshake = 0.5

        [swarm.access]
        deny_networks = ["10.0.0.0/8", "2001:db8::/32"]
        """,
    )
    config = load_config(file, {})
    assert config.identity_path == tmp_path / "keys/me.key"
    assert config.data_dir == Path("/var/lib/lattica")
    assert len(config.bootstrap) == 2
    assert config.swarm.listen == ()
    assert config.swarm.private_network_key == KEY
    assert config.swarm.dial_from_listen_port is False
    assert config.swarm.cipher == "chacha20-poly1305"
    assert config.swarm.timeouts.dial == 3.0
    assert isinstance(config.swarm.timeouts.dial, float)
    assert config.swarm.timeouts.handshake == 0.5
    assert config.swarm.access.deny_networks == ("10.0.0.0/8", "2001:db8::/32")


def test_every_type_from_the_environment() -> None:
    config = load_config(
        None,
        {
            "LATTICA_LISTEN": "/ip4/127.0.0.1/tcp/1, /ip6/::1/tcp/2,",
            "LATTICA_IDENTITY_PATH": "me.key",
            "LATTICA_SWARM__PRIVATE_NETWORK_KEY": KEY.hex(),
            "LATTICA_SWARM__DIAL_FROM_LISTEN_PORT": "No",
            "LATTICA_SWARM__CIPHER": "aes-256-gcm",
            "LATTICA_SWARM__QUIC__FEC": "off",
            "LATTICA_SWARM__TIMEOUTS__DIAL": "2.5",
            "LATTICA_SWARM__LIMITS__MAX_CONNECTIONS": "10",
            "PATH": "/bin",
        },
    )
    assert config.swarm.listen == ("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2")
    assert config.identity_path == Path("me.key")
    assert config.swarm.quic.fec == "off"
    assert config.swarm.private_network_key == KEY
    assert config.swarm.dial_from_listen_port is False
    assert config.swarm.cipher == "aes-256-gcm"
    assert config.swarm.timeouts.dial == 2.5
    assert config.swarm.limits.max_connections == 10


@pytest.mark.parametrize(
    "value",
    [
        "/ip4/127.0.0.1/tcp/1,/ip6/::1/tcp/2",
        " /ip4/127.0.0.1/tcp/1 , /ip6/::1/tcp/2,",
        '["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2"]',
        " [ '/ip4/127.0.0.1/tcp/1' , '/ip6/::1/tcp/2' ,] ",
    ],
)
@pytest.mark.parametrize("variable", ["LATTICA_SWARM__LISTEN", "LATTICA_LISTEN"])
def test_a_list_in_the_environment_with_commas_or_as_in_the_file(variable: str, value: str) -> None:
    listen = load_config(None, {variable: value}).swarm.listen
    assert listen == ("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2")


@pytest.mark.parametrize(
    "value", ["[/ip4/127.0.0.1/tcp/1]", '["a', "[", "[]\nx = 1", "[" * 100_000, "[1]", '[["a"]]']
)
def test_a_list_in_the_environment_that_is_none(value: str) -> None:
    error = error_of(environment={"LATTICA_SWARM__LISTEN": value})
    assert "environment variable LATTICA_SWARM__LISTEN: expected a list" in error


def test_an_empty_list_in_the_environment() -> None:
    assert load_config(None, {"LATTICA_SWARM__LISTEN": "[]"}).swarm.listen == ()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_with_a_byte_order_mark(tmp_path: Path, end: str) -> None:
    file = tmp_path / "bom.toml"
    text = f"listen = []{end}[swarm.limits]{end}max_connections = 7{end}"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    config = load_config(file, {})
    assert config.swarm.listen == ()
    assert config.swarm.limits.max_connections == 7


def test_empty_text_unsets(tmp_path: Path) -> None:
    file = write(tmp_path, "identity_path = ''")
    assert load_config(file, {"LATTICA_IDENTITY_PATH": "a.key"}).identity_path is None
    assert load_config(None, {"LATTICA_IDENTITY_PATH": ""}).identity_path is None


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(None, {"LATTICA_DATA_DIR": "~/l"})
    assert config.data_dir == Path("/home/someone/l")


def test_overrides_take_typed_values() -> None:
    config = load_config(
        None, {}, {"identity_path": Path("k"), "listen": ["/ip4/127.0.0.1/tcp/0"], "bootstrap": ()}
    )
    assert config.identity_path == Path("k")
    assert config.swarm.listen == ("/ip4/127.0.0.1/tcp/0",)


def test_variables_of_others_are_left_alone() -> None:
    # A Kubernetes service named "lattica" puts these into every container beside it.
    foreign = {
        "LATTICA_CONFIG": "x.toml",
        "LATTICA_SERVICE_HOST": "10.0.0.1",
        "LATTICA_SERVICE_PORT_P2P": "4001",
        "LATTICA_PORT": "tcp://10.0.0.1:4001",
        "LATTICA_PORT_4001_TCP_ADDR": "10.0.0.1",
    }
    assert load_config(None, foreign, {"data_dir": "/d"}) == NodeConfig(data_dir=Path("/d"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("colour = 1", ["no such setting", "colour"]),
        ("[swarm.limits]\nmax_conections = 1", ["did you mean swarm.limits.max_connections"]),
        ("[swarm.limits]\nmax_connections = 'many'", ["max_connections", "whole number", "'many'"]),
        ("[swarm.limits]\nmax_connections = 1.5", ["whole number"]),
        ("[swarm.limits]\nmax_connections = true", ["whole number"]),
        ("[swarm.limits]\nmax_connections = 0", ["max_connections", "at least 1"]),
        ("[swarm.timeouts]\ndial = nan", ["dial", "a number"]),
        ("[swarm.timeouts]\ndial = -1", ["swarm.timeouts.dial", "positive number of seconds"]),
        ("[swarm]\nlisten = '/ip4/0.0.0.0/tcp/0'", ["swarm.listen", "a list"]),
        ("[swarm]\nlisten = [1]", ["list in which each item is a text"]),
        ("[swarm]\ndial_from_listen_port = 'yes'", ["true or false"]),
        ("[swarm]\ncipher = 'none'", ["swarm.cipher", "auto, chacha20-poly1305, aes-256-gcm"]),
        ("swarm = 3", ["swarm", "group of settings"]),
        ("log_level = 'loud'", ["log_level", "debug, info"]),
        ("data_dir = ''", ["data_dir", "a path"]),
        ("data_dir = '~nobody-here/x'", ["data_dir", "user that exists"]),
        ("[swarm.access]\nallow_networks = ['10.0.0.1/8']", ["allow_networks", "10.0.0.0/8"]),
        ("listen = []\n[swarm]\nlisten = []", ["give only one"]),
        ("this is no toml", ["not valid TOML"]),
        ("a = " + "[" * 9000, ["not valid TOML"]),
    ],
)
def test_errors_in_a_file_name_it(tmp_path: Path, text: str, parts: list[str]) -> None:
    file = write(tmp_path, text)
    message = error_of(file)
    assert str(file) in message
    for part in parts:
        assert part in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in error_of(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"a = '\xe9'")
    assert "not valid TOML" in error_of(tmp_path / "latin.toml")
    assert "more than 4 MiB" in error_of(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("LATTICA_COLOUR", "1", "no such setting"),
        ("LATTICA_SWARM__LIMITS__MAX_CONNECTIONS", "many", "whole number"),
        ("LATTICA_SWARM__LIMITS__MAX_CONNECTIONS", "0", "at least 1"),
        ("LATTICA_SWARM__TIMEOUTS__DIAL", "inf", "a number"),
        ("LATTICA_SWARM__DIAL_FROM_LISTEN_PORT", "maybe", "true or false"),
        ("LATTICA_SWARM__QUIC__FEC", "maybe", "auto or off"),
        ("LATTICA_SWARM__LIMITS", "1", "group of settings"),
        ("LATTICA_SWARM__PRIVATE_NETWORK_KEY", "00ff", "32 bytes"),
    ],
)
def test_errors_in_the_environment_name_the_variable(variable: str, value: str, part: str) -> None:
    message = error_of(environment={variable: value})
    assert variable in message
    assert part in message


def test_errors_in_arguments_name_the_argument() -> None:
    assert "argument swarm.colour" in error_of(overrides={"swarm.colour": 1})
    assert "argument log_level" in error_of(overrides={"log_level": 7})


def test_a_mistyped_key_is_not_shown() -> None:
    assert "c0ffee" not in error_of(overrides={"swarm.private_network_key": "c0ffee not hex"})


def test_private_network_key_file(tmp_path: Path) -> None:
    write(tmp_path, SWARM_KEY, "swarm.key")
    file = write(tmp_path, "private_network_key_file = 'swarm.key'")
    assert load_config(file, {}).swarm.private_network_key == KEY
    environment = {"LATTICA_PRIVATE_NETWORK_KEY_FILE": str(tmp_path / "swarm.key")}
    assert load_config(None, environment).swarm.private_network_key == KEY
    missing = error_of(overrides={"private_network_key_file": str(tmp_path / "none")})
    assert "private_network_key_file" in missing
    assert "No such file" in missing
    write(tmp_path, SWARM_KEY[:-3], "short.key")
    assert "not a private network key" in error_of(
        overrides={"private_network_key_file": tmp_path / "short.key"}
    )


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_private_network_key_that_others_can_read(tmp_path: Path, mode: int) -> None:
    key = write(tmp_path, SWARM_KEY, "swarm.key")
    key.chmod(mode)
    error = error_of(overrides={"private_network_key_file": key})
    assert "private_network_key_file" in error
    assert f"chmod 600 {key}" in error
    assert KEY.hex() not in error
    file = write(tmp_path, f"[swarm]\nprivate_network_key = '{KEY.hex()}'")
    assert load_config(file, {}).swarm.private_network_key == KEY
    file.chmod(mode)
    error = error_of(file)
    assert "swarm.private_network_key" in error
    assert f"chmod 600 {file}" in error
    assert KEY.hex() not in error
    # Without a key in it, it is nobody's secret.
    file.write_text("log_level = 'error'\n[swarm]\nprivate_network_key = ''")
    assert load_config(file, {}).log_level == "error"


def test_a_private_network_key_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "swarm.key", 0o600)
    error = error_of(overrides={"private_network_key_file": tmp_path / "swarm.key"})
    assert "not a regular file" in error


def test_the_key_itself_beats_a_key_file_of_lower_precedence(tmp_path: Path) -> None:
    write(tmp_path, SWARM_KEY, "swarm.key")
    environment = {"LATTICA_PRIVATE_NETWORK_KEY_FILE": str(tmp_path / "swarm.key")}
    other = bytes(32)
    config = load_config(None, environment, {"swarm.private_network_key": other})
    assert config.swarm.private_network_key == other


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Limits(low_watermark=0), "low_watermark"),
        (lambda: Limits(trim_grace=-1), "trim_grace"),
        (lambda: Timeouts(keep_alive_interval=12, keep_alive_timeout=12), "keep_alive_timeout"),
        (lambda: Timeouts(shutdown=float("nan")), "shutdown"),
        (lambda: Windows(maximum=1024), "maximum"),
        (lambda: Windows(maximum=2**32), "maximum"),
        (lambda: Windows(send_buffer=0), "send_buffer"),
        (lambda: AccessRules(deny_networks=("x",)), "deny_networks"),
        (lambda: SwarmConfig(private_network_key=b"short"), "private_network_key"),
        (lambda: SwarmConfig(dial_stagger=-1), "dial_stagger"),
        (lambda: NodeConfig(log_level="loud"), "log_level"),
    ],
)
def test_ranges_hold_without_load_config(make, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        make()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (SwarmConfig, "listen"),
        (NodeConfig, "bootstrap"),
        (AccessRules, "allow_peers"),
        (AccessRules, "deny_networks"),
        (RelayClientConfig, "relays"),
        (AutonatServerConfig, "dial_back_ips"),
    ],
)
@pytest.mark.parametrize("value", ["/ip4/192.0.2.1/tcp/1", None, (5,), {}])
def test_a_single_text_is_no_list(config: Any, field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field}: expected a list of texts, not "):
        config(**{field: value})


toml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    [
        "listen",
        "identity_path",
        "data_dir",
        "log_level",
        "bootstrap",
        "swarm.private_network_key",
        "swarm.limits.max_connections",
        "swarm.timeouts.dial",
        "swarm.dial_from_listen_port",
        "swarm.access.deny_networks",
        "swarm",
    ]
)


@given(name=names, value=toml_values)
def test_any_value_is_taken_or_a_config_error(name: str, value: object) -> None:
    message = name
    try:
        load_config(None, {}, {name: value})
    except ConfigError as error:
        message = str(error)
    assert name in message


@given(name=names, value=st.text())
def test_any_text_in_the_environment_is_taken_or_a_config_error(name: str, value: str) -> None:
    message = variable = "LATTICA_" + name.replace(".", "__").upper()
    try:
        load_config(None, {variable: value})
    except ConfigError as error:
        message = str(error)
    assert variable in message
