"""Targets of what people and files say: configuration, addresses."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lattica.config import NodeConfig, load_config
from lattica.errors import ConfigError
from tools.fuzz.target import Target, Violation
from tools.fuzz.targets.pieces import option

EXAMPLE = b"""
bootstrap = ["/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"]
data_dir = "data"
log_level = "debug"
[swarm]
listen = ["/ip4/127.0.0.1/tcp/0"]
dial_stagger = 0.2
private_network_key = "%s"
[swarm.limits]
max_connections = 10
[swarm.access]
deny_networks = ["10.0.0.0/8"]
""" % (b"ab" * 32)


def _config_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "lattica.toml"
        path.write_bytes(data)
        path.chmod(0o600)  # it has a key
        config = load_config(path, environment={"HOME": folder})
    if not isinstance(config, NodeConfig):
        raise Violation(f"made {config!r}")


VARIABLES = (
    "LATTICA_LISTEN",
    "LATTICA_SWARM__LIMITS__MAX_CONNECTIONS",
    "LATTICA_SWARM__DIAL_STAGGER",
    "LATTICA_SWARM__DIAL_FROM_LISTEN_PORT",
    "LATTICA_SWARM__PRIVATE_NETWORK_KEY",
    "LATTICA_SWARM__ACCESS__DENY_NETWORKS",
    "LATTICA_IDENTITY_PATH",
    "LATTICA_BOOTSTRAP",
)


def _config_environment(data: bytes) -> None:
    kind, rest = option(data)
    text = rest.decode("utf-8", "surrogateescape").replace("\0", "")
    if kind < 128:
        environment = {VARIABLES[kind % len(VARIABLES)]: text}
    else:
        name, _, value = text.partition("=")
        environment = {f"LATTICA_{name}": value}
    load_config(environment=environment)


CONFIG_FILE = Target(
    "config-file",
    _config_file,
    (ConfigError,),
    seeds=[EXAMPLE, b'listen = "x"', b"[swarm.limits]\nmax_streams_per_connection = -1\n"],
    tokens=[
        b"[swarm]\n", b"[swarm.timeouts]\n", b"[swarm.windows]\n", b"[[swarm]]\n", b"swarm = 1\n",
        b"listen = ", b"nan", b"inf", b"-1", b"1979-05-27T07:32:00Z", b"9" * 400, b"'''", b"[" * 99,
        b"private_network_key_file = '/'\n", b"identity_path = ", b"'\\u0000'", b"'~nobody/x'",
    ],
)  # fmt: skip
CONFIG_ENVIRONMENT = Target(
    "config-environment",
    _config_environment,
    (ConfigError,),
    seeds=[
        b"\x00/ip4/127.0.0.1/tcp/0, /ip6/::1/tcp/0",
        b"\x01100",
        b"\x020.5",
        b"\x03yes",
        b"\x04" + b"ab" * 32,
        b"\x0510.0.0.0/8,fe80::/10",
        b"\x06~/key",
        b"\xffSWARM__WINDOWS__INITIAL=262144",
    ],
    tokens=[b"1_0", b"nan", b"1e400", b"__", b",", "٣".encode(), b"9" * 5000, b"/", b"~x", b"="],
    max_size=8192,
)
