"""Log lines that others cause are few, whatever they do."""

import ast
import logging
from pathlib import Path

from lattica.nat.base import peer_log as module
from lattica.nat.base.peer_log import (
    BURST,
    INTERVAL,
    MAX_SOURCES,
    TOTAL_BURST,
    TOTAL_RATE,
    PeerLog,
)

logger = logging.getLogger(__name__)
ROOT = Path(module.__file__).parents[2]
PACED = {
    "nat/swarm/upkeep/same_key.py": "once for each peer, of all together at a rate of its own",
    "nat/swarm/dialing/race.py": "of our own dials",
    "nat/traversal/relay/client/client.py": "one a change, and changes are paced by back-off",
    "nat/traversal/path_manager.py": "an internal error of our own attempts, paced by the plan",
    "lattica/node/bootstrap.py": "one a change, and redialing is paced",
}
"""Files whose lines about peers need no limit, and why."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_source_gets_a_burst_and_then_one_now_and_then(caplog):
    clock = Clock()
    log = PeerLog(clock)
    for _ in range(10_000):
        log.log(logger, logging.WARNING, "a", "nonsense peer=%s", "a")
    assert len(caplog.records) == BURST
    log.log(logger, logging.WARNING, "b", "nonsense peer=%s", "b")
    assert len(caplog.records) == BURST + 1
    clock.now = INTERVAL
    for _ in range(100):
        log.log(logger, logging.WARNING, "a", "nonsense peer=%s", "a")
    assert len(caplog.records) == BURST + 2
    left_out = 10_000 - BURST
    assert caplog.messages[-1] == f"nonsense peer=a ({left_out} more lines of it were left out)"
    assert Path(caplog.records[-1].pathname).name == Path(__file__).name


def test_all_sources_together_have_a_limit_and_are_forgotten():
    clock = Clock()
    log = PeerLog(clock)
    assert sum(log.admit(n) is not None for n in range(20_000)) == TOTAL_BURST
    assert len(log._sources) == MAX_SOURCES
    clock.now = 1.0
    assert sum(log.admit(n) is not None for n in range(20_000)) == TOTAL_RATE


def test_what_is_not_logged_costs_nothing(caplog):
    log = PeerLog(Clock())
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            log.log(logger, logging.DEBUG, "a", "news")
    assert log.admit("a") == 0


def test_nothing_about_a_peer_is_logged_past_it():
    """Whoever writes a line about a peer or what came from an address takes the limit."""
    found = set()
    for floor in ("nat", "lattica", "rpc", "dht", "crdt"):
        for path in sorted((ROOT / floor).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id == "logger"
                    and node.func.attr in ("warning", "error", "exception")
                    and isinstance(text := getattr(node.args[0], "value", None), str)
                    and any(word in text for word in ("peer=", "relay=", " addr=%s"))
                ):
                    found.add(str(path.relative_to(ROOT)))
    assert found
    assert found <= PACED.keys()
