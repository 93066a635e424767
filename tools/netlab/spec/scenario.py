"""Scenario files: TOML to :class:`tools.netlab.spec.model.Scenario`.

    name = "two-homes"
    [links.dsl]                                  # links by name, used below
    up = { delay_s = 0.015, rate_bps = 10e6 }
    down = { delay_s = 0.015, rate_bps = 50e6 }
    [routers.home]
    nat = "port-restricted"                      # a name of nat_spec.NAMES, or a table:
    # nat = { like = "cgnat", udp_timeout_s = 20 }
    link = "dsl"                                 # or a table { up = …, down = …, both = … }
    [hosts.alice]
    behind = "home"
    count = 3                                    # alice-1, alice-2, alice-3
    [relays.relay]
    [programs.peer]                              # on a counted host: one on each
    kind = "node"
    host = "alice"
    connect = ["relay"]
    [[faults]]
    kind = "nat-reboot"
    at_s = 10
    router = "home"

Every key is a field of a dataclass in `model`, `nat_spec` or `link_spec`, and means what is said
there; unknown keys are errors. Where a list of names has a counted name it means all of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.netlab.lab.plan import make_plan
from tools.netlab.spec.fault import FAULTS, Fault
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.strict import SpecError, from_table, to_table
from tools.netlab.spec.topology import Host, Link, Relay, Router
from tools.netlab.spec.workload import PROGRAMS, Program

SHIPPED = Path(__file__).parents[1] / "scenarios"
MAX_FILE = 1 << 20
MAX_COUNT = 1000

Table = dict[str, Any]


class ScenarioError(Exception):
    """A scenario file that cannot be used. Says which file, which key and why."""

    def __init__(self, file: Path, key: str, reason: str) -> None:
        super().__init__(": ".join(part for part in (str(file), key, reason) if part))
        self.file = file
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Head:
    """The scalars at the top of a file."""

    name: str
    about: str = ""
    duration_s: float = 300.0
    settle_s: float = 0.0
    ipv6: bool = False
    seed: int = 1


def shipped() -> dict[str, Path]:
    """The scenarios that come with the lab, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def find(name: str) -> Path:
    """The file that `name` means: a path, or the name of a shipped scenario.

    Raises :class:`ScenarioError`.
    """
    path = Path(name)
    known = shipped()
    if name in known:
        return known[name]
    if path.suffix == ".toml" or path.is_file():
        return path
    raise ScenarioError(
        path, "", f"no such file, and no shipped scenario: those are {', '.join(known)}"
    )


def load(file: Path) -> Scenario:
    """Read a scenario file. Raises :class:`ScenarioError`."""
    try:
        if file.stat().st_size > MAX_FILE:
            raise ScenarioError(file, "", f"is larger than {MAX_FILE} bytes")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(file, "", error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise ScenarioError(file, "", f"is not UTF-8 text: {error}") from None
    try:
        return parse(text, default_name=file.stem)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(file, "", f"is not TOML: {error}") from None
    except SpecError as error:
        raise ScenarioError(file, error.key, error.reason) from None


def parse(text: str, default_name: str) -> Scenario:
    """A scenario from TOML, that can be built; `default_name` if it does not say its name.

    Raises :class:`SpecError` or `tomllib.TOMLDecodeError`.
    """
    table = tomllib.loads(text)
    table.setdefault("name", default_name)
    sections = {
        key: _tables(table.pop(key, {}), key)
        for key in ("links", "hosts", "routers", "relays", "programs")
    }
    raw_faults = table.pop("faults", [])
    head_keys = _Head.__dataclass_fields__
    for key in table:
        if key not in head_keys:
            known = ", ".join((*head_keys, *sections, "faults"))
            raise SpecError(key, f"unknown key; known are {known}")
    head = from_table(_Head, table)

    links = {name: _link(body, {}, f"links.{name}") for name, body in sections["links"].items()}
    counts: dict[str, int] = {}
    hosts = tuple(_hosts(sections["hosts"], links, counts))
    # A program on a counted host has as many instances, and its name means all of them.
    for name, body in sections["programs"].items():
        host = body.get("host")
        if isinstance(host, str) and host in counts:
            counts.setdefault(name, counts[host])
    scenario = Scenario(
        **{key: getattr(head, key) for key in head_keys},
        hosts=hosts,
        routers=tuple(_routers(sections["routers"], links)),
        relays=tuple(_relays(sections["relays"], links)),
        programs=tuple(_programs(sections["programs"], counts)),
        faults=tuple(_faults(raw_faults, links, counts)),
    )
    make_plan(scenario)
    return scenario


def _tables(value: object, key: str) -> dict[str, Table]:
    if not isinstance(value, Mapping):
        raise SpecError(key, "expected a table of tables")
    for name, body in value.items():
        if not isinstance(body, Mapping):
            raise SpecError(f"{key}.{name}", "expected a table")
    return {name: dict(body) for name, body in value.items()}


def _link(value: object, links: Mapping[str, Table], key: str) -> Table:
    """A link's table with `up` and `down`, from a link's name or from a table that may say
    `both`."""
    if isinstance(value, str):
        if value not in links:
            known = ", ".join(links) or "none"
            raise SpecError(key, f"there is no link {value!r}; [links] has {known}")
        return links[value]
    if not isinstance(value, Mapping):
        raise SpecError(key, "expected the name of a link, or a table with up, down or both")
    table = dict(value)
    both = table.pop("both", None)
    if both is not None:
        for side in ("up", "down"):
            if side in table:
                raise SpecError(f"{key}.{side}", "is given by `both` already")
            table[side] = both
    from_table(Link, table, key)
    return table


def _with_links(body: Table, links: Mapping[str, Table], key: str) -> Table:
    return {
        field: _link(value, links, f"{key}.{field}") if field in _LINK_FIELDS else value
        for field, value in body.items()
    }


_LINK_FIELDS = ("link", "standby_link")


def _hosts(
    tables: Mapping[str, Table], links: Mapping[str, Table], counts: dict[str, int]
) -> Iterator[Host]:
    for name, raw in tables.items():
        key = f"hosts.{name}"
        body = _with_links(raw, links, key)
        if "count" not in body:
            yield from_table(Host, {"name": name, **body}, key)
            continue
        count = body.pop("count")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_COUNT:
            raise SpecError(f"{key}.count", f"expected 1 to {MAX_COUNT}, got {count!r}")
        counts[name] = count
        for instance in _instances(name, counts):
            yield from_table(Host, {"name": instance, **body}, key)


def _routers(tables: Mapping[str, Table], links: Mapping[str, Table]) -> Iterator[Router]:
    for name, raw in tables.items():
        key = f"routers.{name}"
        body = _with_links(raw, links, key)
        if "nat" in body:
            body["nat"] = nat_table(body["nat"], f"{key}.nat")
        yield from_table(Router, {"name": name, **body}, key)


def nat_table(value: object, key: str) -> Table:
    """A NatSpec's table, from a name or from a table that may say `like`.

    Raises :class:`SpecError`.
    """
    like: object
    if isinstance(value, str):
        like, changes = value, {}
    elif isinstance(value, Mapping):
        changes = dict(value)
        like = changes.pop("like", None)
        if like is None:
            return changes
    else:
        raise SpecError(key, "expected the name of a NAT type, or a table")
    if not isinstance(like, str) or like not in NAMES:
        raise SpecError(key, f"there is no NAT type {like!r}; known are {', '.join(NAMES)}")
    return {**to_table(NAMES[like]), **changes}


def _relays(tables: Mapping[str, Table], links: Mapping[str, Table]) -> Iterator[Relay]:
    for name, raw in tables.items():
        key = f"relays.{name}"
        yield from_table(Relay, {"name": name, **_with_links(raw, links, key)}, key)


def _programs(tables: Mapping[str, Table], counts: Mapping[str, int]) -> Iterator[Program]:
    for name, raw in tables.items():
        key = f"programs.{name}"
        body = dict(raw)
        cls = PROGRAMS[_kind(body, PROGRAMS, key)]
        for field in ("connect", "relays", "after"):
            if field in body:
                body[field] = _expand(body[field], counts, f"{key}.{field}")
        if "env" in body:
            if not isinstance(body["env"], Mapping):
                raise SpecError(f"{key}.env", "expected a table")
            body["env"] = [list(pair) for pair in body["env"].items()]
        if body.get("exit_code") == "none":
            body["exit_code"] = None
        host = body.get("host")
        if name not in counts:
            yield from_table(cls, {"name": name, **body}, key)
            continue
        for instance, on in zip(
            _instances(name, counts), _instances(str(host), counts), strict=True
        ):
            yield from_table(cls, {**body, "name": instance, "host": on}, key)


def _faults(raw: object, links: Mapping[str, Table], counts: Mapping[str, int]) -> Iterator[Fault]:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise SpecError("faults", "expected a list of tables: [[faults]]")
    for index, value in enumerate(raw):
        key = f"faults[{index}]"
        if not isinstance(value, Mapping):
            raise SpecError(key, "expected a table")
        body = _with_links(dict(value), links, key)
        cls = FAULTS[_kind(body, FAULTS, key)]
        if isinstance(body.get("groups"), Sequence):
            body["groups"] = [
                _expand(group, counts, f"{key}.groups[{number}]")
                for number, group in enumerate(body["groups"])
            ]
        yield from_table(cls, body, key)


def _kind(body: Table, known: Mapping[str, object], key: str) -> str:
    kind = body.pop("kind", None)
    if not isinstance(kind, str) or kind not in known:
        got = "is required" if kind is None else f"there is no kind {kind!r}"
        raise SpecError(f"{key}.kind", f"{got}; known are {', '.join(known)}")
    return kind


def _instances(name: str, counts: Mapping[str, int]) -> list[str]:
    return [f"{name}-{number}" for number in range(1, counts[name] + 1)]


def _expand(value: object, counts: Mapping[str, int], key: str) -> list[object]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise SpecError(key, "expected a list of names")
    names: list[object] = []
    for name in value:
        is_counted = isinstance(name, str) and name in counts
        names += _instances(str(name), counts) if is_counted else [name]
    return names
