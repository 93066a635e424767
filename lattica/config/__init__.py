"""Configuration of a node: one frozen dataclass, filled from arguments, a file, the environment.

Precedence: arguments over the TOML file over environment variables over defaults, setting by
setting. The dataclasses are the schema: names and types of their fields say what is allowed, and
their `__post_init__` what is in range. Every mistake is a :class:`ConfigError` that names the
source, the setting and what was expected.

A setting has a dotted name, such as `swarm.limits.max_connections`:

* arguments: `{"swarm.limits.max_connections": 100}`;
* TOML: `max_connections = 100` in table `[swarm.limits]`; paths are relative to the file's folder;
* environment: `LATTICA_SWARM__LIMITS__MAX_CONNECTIONS=100`; lists are separated by commas.

Bytes are written in hexadecimal; an empty text unsets a setting that may be unset. Some settings
are spelled shorter: `listen` for `swarm.listen`, `relays` for `nat.relay.relays`, and
`private_network_key_file`, a file in go-libp2p's swarm.key format, for
`swarm.private_network_key`.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from lattica.config.decoding import Source, decode_value
from lattica.config.lines import line_of
from lattica.crdt.config import StoreConfig
from lattica.daemon.metrics.config import MetricsConfig
from lattica.daemon.node.config import MemberConfig
from lattica.daemon.relay.config import RelayConfig
from lattica.dht.config import DhtConfig
from lattica.dht.discovery.config import DiscoveryConfig
from lattica.dht.topics.config import TopicsConfig
from lattica.logs import LEVELS
from lattica.nat.base.checks import FieldError, require_texts, require_types
from lattica.nat.base.errors import AddressError, ConfigError
from lattica.nat.base.keys.peer_id import parse_peer_id
from lattica.nat.base.keys.private_file import (
    UnprotectedFileError,
    check_private,
    read_private_file,
)
from lattica.nat.base.keys.swarm_key import parse_swarm_key
from lattica.nat.base.net.addresses import Kind, kind_of, parse_multiaddr, split_peer
from lattica.nat.config import SwarmConfig
from lattica.nat.traversal.config import TraversalConfig
from lattica.nat.traversal.relay.token import parse_token
from lattica.rpc.config import RpcConfig
from lattica.rpc.ports.config import PortsConfig

ENVIRONMENT_PREFIX = "LATTICA_"
CONFIG_VARIABLE = "LATTICA_CONFIG"
"""Names the TOML file where no other one is given."""
_DEFAULT = "default"
# That one is no setting. The others appear by themselves in the containers of a
# Kubernetes cluster that has a service called "lattica".
_FOREIGN_VARIABLES = re.compile(r"LATTICA_(CONFIG|SERVICE_.*|PORT(_\d.*)?)")

_MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes."""
_LISTEN = "listen"
_KEY_FILE = "private_network_key_file"
_RELAYS = "relays"
_TARGETS = {
    _LISTEN: "swarm.listen",
    _KEY_FILE: "swarm.private_network_key",
    _RELAYS: "nat.relay.relays",
}
_MAX_KEY_FILE = 4096


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """`$XDG_DATA_HOME/lattica`, else `~/.local/share/lattica` (XDG base directories 0.8).

    Raises:
        ConfigError: for a user without a home directory.
    """
    base = environment.get("XDG_DATA_HOME", "")
    # The specification asks to ignore relative paths.
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/share")
    if not os.path.isabs(base):
        raise ConfigError("data_dir must be set: this user has no home directory")
    return Path(base) / "lattica"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything a :class:`lattica.Node` can be told."""

    identity_path: Path | None = None
    """Key file, made when there is none. None: a new key that lives as long as the node."""
    swarm: SwarmConfig = field(default_factory=SwarmConfig)
    nat: TraversalConfig = field(default_factory=TraversalConfig)
    rpc: RpcConfig = field(default_factory=RpcConfig)
    ports: PortsConfig = field(default_factory=PortsConfig)
    topics: TopicsConfig = field(default_factory=TopicsConfig)
    discovery: DiscoveryConfig = field(default_factory=DiscoveryConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    dht: DhtConfig = field(default_factory=DhtConfig)
    node: MemberConfig = field(default_factory=MemberConfig)
    relay: RelayConfig = field(default_factory=RelayConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    bootstrap: tuple[str, ...] = ()
    """Multiaddrs of peers to stay connected to. With `/p2p/ID` it must be that peer; without,
    whoever answers is accepted."""
    data_dir: Path = field(default_factory=lambda: default_data_dir(os.environ))
    """Where the commands keep the key, and nodes with a key file the records of the DHT:
    `$XDG_DATA_HOME/lattica`, else `~/.local/share/lattica`."""
    log_level: str = "info"
    """One of debug, info, warning, error. Used by programs; the library sets up no logging."""
    log_json: bool = False
    """Log one JSON object a line rather than text, as `--log-json` does."""

    def __post_init__(self) -> None:
        require_types(self)
        require_texts("bootstrap", self.bootstrap)
        if self.log_level.lower() not in LEVELS:
            raise FieldError("log_level", f"one of {', '.join(LEVELS)}", self.log_level)
        if self.nat.relay_only and self.discovery.mdns:
            expected = "off with nat.relay_only: it shows this node's address to the network"
            raise FieldError("discovery.mdns", expected, self.discovery.mdns)


def require_config(config: object) -> None:
    """Raises ConfigError unless it is a configuration, or None for the loaded one."""
    if config is not None and not isinstance(config, NodeConfig):
        raise ConfigError(
            f"a node takes a NodeConfig, not {type(config).__name__}: "
            "load_config(path) reads a file, NodeConfig(...) says it in Python"
        )


def refuse_settings(given: Mapping[str, object]) -> None:
    """Raises TypeError, and says where they belong, if a node is given settings as keywords."""
    if given:
        settings = ", ".join(f'"{name}": …' for name in given)
        raise TypeError(
            f"no keyword{'' if len(given) == 1 else 's'} {', '.join(given)}: settings are in the "
            f"configuration, which is lattica.load_config(overrides={{{settings}}})"
        )


def key_file_in(data_dir: Path) -> Path:
    """Where the commands keep a peer's key unless `identity_path` is set."""
    return data_dir / "identity.key"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a setting was given."""

    source: str
    """In words: the file, "environment variable", or "argument"."""
    name: str
    """Of the setting, or the variable, as it is written there."""
    text: str | None = None
    """Of the file."""

    def __str__(self) -> str:
        return f"{self.source}: {self.name}" if self.text is not None else self._words

    @property
    def _words(self) -> str:
        return f"{self.source} {self.name}".strip()

    @property
    def line(self) -> int | None:
        """In the file."""
        return None if self.text is None else line_of(self.text, self.name)


class SettingError(ConfigError):
    """A setting that is wrong: what is at :attr:`place`, on :attr:`line` of a file, and
    :attr:`problem`."""

    def __init__(self, place: Place, problem: str) -> None:
        self.place = place
        self.problem = problem
        self.line = place.line
        at = "" if self.line is None else f" (line {self.line})"
        super().__init__(f"{place}: {problem}{at}")


@dataclass(frozen=True, slots=True)
class _Given:
    """A decoded value, and where it was given."""

    value: object
    where: Place


def load_config(
    file: Path | str | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> NodeConfig:
    """Merge defaults, `environment` (None: the process's), the TOML `file` and `overrides`.

    Without arguments, this is what a node without a configuration has. Where no `file` is given,
    it is the one that the process's `LATTICA_CONFIG` names, if any, unless an `environment` is
    given: `environment={}` is nothing from outside.
    `overrides` maps dotted names to values, which may be of the field's type or as in TOML.

    Raises:
        ConfigError: for an unreadable file, an unknown setting, and a value of the wrong type or
            out of range.
    """
    config = _build(NodeConfig, "", _given(file, environment, overrides))
    assert isinstance(config, NodeConfig)
    return config


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as it is in force."""

    name: str
    """Dotted."""
    value: object
    source: str
    """Where it was given, such as "environment variable LATTICA_LISTEN"; or "default"."""


def explain_config(
    file: Path | str | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> tuple[Setting, ...]:
    """Every setting as :func:`load_config` would have it, and where it comes from.

    Raises what that does.
    """
    given = _given(file, environment, overrides)
    config = _build(NodeConfig, "", given)
    return tuple(_walk(config, "", given))


def changed_settings(before: NodeConfig, after: NodeConfig) -> tuple[str, ...]:
    """The dotted names of the settings in which two configurations differ."""
    pairs = zip(_walk(before, "", {}), _walk(after, "", {}), strict=True)
    return tuple(old.name for old, new in pairs if old.value != new.value)


def _walk(group: object, prefix: str, given: Mapping[str, _Given]) -> Iterator[Setting]:
    assert is_dataclass(group)
    for member in fields(group):
        name, value = prefix + member.name, getattr(group, member.name)
        if is_dataclass(value):
            yield from _walk(value, f"{name}.", given)
        else:
            where = str(given[name].where) if name in given else _DEFAULT
            yield Setting(name, value, where)


def config_problems(
    file: Path | str | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    conflicts: Callable[[NodeConfig], Iterator[tuple[str, str]]] = lambda _: iter(()),
) -> list[ConfigError]:
    """Everything that is wrong with a configuration, where :func:`load_config` says the first.

    `conflicts` looks at what is in force where all single settings are right: names, and what is
    wrong with them.
    """
    problems: list[ConfigError] = []
    try:
        given = _given(file, environment, overrides, problems)
    except ConfigError as error:  # the file cannot be read at all
        return [error]
    config = _build(NodeConfig, "", given, problems)
    if not problems:
        assert isinstance(config, NodeConfig)
        for name, reason in conflicts(config):
            where = given[name].where if name in given else Place(_DEFAULT, name)
            problems.append(SettingError(where, reason))
    return problems


def _given(
    file: Path | str | None,
    environment: Mapping[str, str] | None,
    overrides: Mapping[str, object] | None,
    problems: list[ConfigError] | None = None,
) -> dict[str, _Given]:
    """All that is not a default of the dataclasses, by dotted name. What is wrong is raised, or put
    into `problems`."""
    if environment is None:
        environment = os.environ
        file = file or environment.get(CONFIG_VARIABLE) or None
    given: dict[str, _Given] = {}
    given.update(_decode_source(_environment_settings(environment), problems))
    if file is not None:
        given.update(_decode_source(_file_settings(Path(file)), problems))
    arguments = Source("argument")
    given.update(
        _decode_source(
            (
                (name, value, arguments, Place("argument", name))
                for name, value in (overrides or {}).items()
            ),
            problems,
        )
    )
    given.setdefault("data_dir", _Given(default_data_dir(environment), Place(_DEFAULT, "")))
    return given


# Settings as they are found: dotted name, raw value, source, and where that is.
_Raw = tuple[str, object, Source, Place]


def _environment_settings(environment: Mapping[str, str]) -> Iterator[_Raw]:
    source = Source("environment variable", is_text=True)
    for variable in sorted(environment):
        if variable.startswith(ENVIRONMENT_PREFIX) and not _FOREIGN_VARIABLES.fullmatch(variable):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield name, environment[variable], source, Place(source.label, variable)


def _file_settings(file: Path) -> Iterator[_Raw]:
    try:
        with open(file, "rb") as stream:
            status = os.fstat(stream.fileno())
            # Editors of Windows put a byte order mark before it, which is none of TOML's.
            data = stream.read(_MAX_FILE + 1)
            if len(data) > _MAX_FILE:
                raise ConfigError(f"{file} has more than {_MAX_FILE >> 20} MiB: no configuration")
            text = data.decode("utf-8-sig")
            document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    source = Source(f"{file}", folder=file.absolute().parent)
    for setting in _table_settings(document, "", source, text):
        # A pipe (`--config <(…)`) can only be read once, by us.
        name, value, _, where = setting
        if name in _secrets() and value and stat.S_ISREG(status.st_mode):
            try:
                check_private(status, file)
            except UnprotectedFileError as error:
                raise SettingError(where, f"{file} {error}") from None
        yield setting


def _table_settings(
    table: Mapping[str, object], prefix: str, source: Source, text: str
) -> Iterator[_Raw]:
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name in _schema()[1]:
            yield from _table_settings(value, f"{name}.", source, text)
        else:
            yield name, value, source, Place(source.label, name, text)


def _decode_source(
    settings: Iterator[_Raw], problems: list[ConfigError] | None = None
) -> dict[str, _Given]:
    """Decode one source's settings, by the dotted names of the fields they set."""
    decoded: dict[str, _Given] = {}
    for name, raw, source, where in settings:
        try:
            target, value = _decode_setting(name, raw, source, where)
            if target in decoded:
                raise SettingError(
                    where, f"sets the same as {decoded[target].where}; give only one"
                )
        except ConfigError as error:
            if problems is None:
                raise
            problems.append(error)
        else:
            decoded[target] = _Given(value, where)
    return decoded


def _decode_setting(name: str, raw: object, source: Source, where: Place) -> tuple[str, object]:
    """The field that a setting sets, and the value."""
    leaves, groups = _schema()
    if name in groups:
        example = next(leaf for leaf in leaves if leaf.startswith(name + "."))
        raise SettingError(
            where, f"is a group of settings, expected one of its members such as {example}"
        )
    if name not in leaves:
        meant = _meant(name)
        hint = f"; did you mean {meant}?" if meant else ""
        raise SettingError(where, f"there is no such setting{hint}")
    value = _decode(leaves[name], raw, source, where)
    if name == _KEY_FILE and isinstance(value, Path):
        value = _read_key_file(value, where)
    target = _TARGETS.get(name, name)
    _check_items(target, value, where)
    return target, value


def _meant(name: str) -> str:
    """The settings or groups that somebody who has written `name` may have meant; or nothing."""
    leaves, groups = _schema()
    known = (*leaves, *groups)
    close = difflib.get_close_matches(name, known, n=1)
    last = name.rpartition(".")[2]
    if close and close[0].rpartition(".")[2] != last:
        return close[0]
    # In the wrong table, perhaps.
    same = [one for one in known if one.rpartition(".")[2] == last]
    same.sort(key=lambda one: -difflib.SequenceMatcher(None, name, one).ratio())
    return close[0] if close and "." in name else " or ".join(same[:3] or close)


@cache
def _schema() -> tuple[dict[str, Any], frozenset[str]]:
    """The types of all settings by dotted name, and the names of the groups they are in."""
    leaves: dict[str, Any] = {
        _LISTEN: tuple[str, ...],
        _KEY_FILE: Path | None,
        _RELAYS: tuple[str, ...],
    }
    groups: set[str] = set()

    def walk(cls: type, prefix: str) -> None:
        for name, kind in get_type_hints(cls).items():
            if is_dataclass(kind) and isinstance(kind, type):
                groups.add(prefix + name)
                walk(kind, f"{prefix}{name}.")
            else:
                leaves[prefix + name] = kind

    walk(NodeConfig, "")
    return leaves, frozenset(groups)


@cache
def _secrets() -> frozenset[str]:
    """The settings that are keys: those of bytes."""
    return frozenset(
        name for name, kind in _schema()[0].items() if bytes in (kind, *get_args(kind))
    )


def _build(
    cls: type,
    prefix: str,
    given: Mapping[str, _Given],
    problems: list[ConfigError] | None = None,
) -> object:
    arguments: dict[str, object] = {}
    kinds = get_type_hints(cls)
    for member in fields(cls):
        name = prefix + member.name
        if name in given:
            arguments[member.name] = given[name].value
        elif is_dataclass(kinds[member.name]):
            arguments[member.name] = _build(kinds[member.name], f"{name}.", given, problems)
        elif member.default is MISSING and member.default_factory is MISSING:
            raise ConfigError(f"{name} must be set")
    try:
        return cls(**arguments)
    except FieldError as error:
        name = prefix + error.field
        if name in given:
            wrong: ConfigError = SettingError(given[name].where, error.problem)
        else:
            wrong = ConfigError(f"{name}: {error.problem}")
        if problems is None:
            raise wrong from None
        problems.append(wrong)
        return cls()  # all else can be looked at


def _check_peer_address(text: str) -> None:
    addr, relay = split_peer(parse_multiaddr(text))
    if relay is None or kind_of(addr) is Kind.CIRCUIT or not addr.to_bytes():
        raise AddressError(f"the address must end in its /p2p/ID, unlike {text!r:.200}")


_ITEMS: Final[Mapping[str, Callable[[str], object]]] = {
    "swarm.listen": parse_multiaddr,
    "nat.relay.relays": _check_peer_address,
    "discovery.rendezvous": _check_peer_address,
    "bootstrap": parse_multiaddr,
    "swarm.access.allow_peers": parse_peer_id,
    "swarm.access.deny_peers": parse_peer_id,
    "nat.relay_server.allow_peers": parse_peer_id,
    "nat.relay_server.deny_peers": parse_peer_id,
    "nat.relay.tokens": parse_token,
    "node.expose_to": parse_peer_id,
}
"""What reads each text of a list, and raises for one that is none: here it is known who gave it."""


def _check_items(name: str, value: object, where: Place) -> None:
    check = _ITEMS.get(name)
    if check is None or not isinstance(value, tuple):
        return
    for item in value:
        try:
            check(item)
        except (AddressError, ValueError) as error:
            raise SettingError(where, str(error)) from None


def _read_key_file(path: Path, where: Place) -> bytes:
    try:
        return parse_swarm_key(read_private_file(path, _MAX_KEY_FILE))
    except OSError as error:
        raise SettingError(where, f"cannot read {path}: {error.strerror}") from None
    except UnprotectedFileError as error:
        raise SettingError(where, f"{path} {error}") from None
    except ConfigError as error:
        raise SettingError(where, f"{path} is not a private network key: {error}") from None


def _decode(kind: Any, raw: object, source: Source, where: Place) -> object:
    try:
        return decode_value(kind, raw, source)
    except ValueError as error:
        # Bytes are keys: a mistyped one is still a secret.
        shown = type(raw).__name__ if bytes in (kind, *get_args(kind)) else f"{raw!r:.100}"
        raise SettingError(where, f"expected {error}, not {shown}") from None
