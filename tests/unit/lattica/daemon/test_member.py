"""What a daemon knows of itself: configuration, transfers, log."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lattica.config import load_config
from lattica.content.events import Checking, FetchProgress, FetchStarted, HashProgress
from lattica.content.manifest.cid import Cid
from lattica.daemon.node.config import MemberConfig
from lattica.daemon.node.log_lines import KEPT, LogLines
from lattica.daemon.node.transfers import Transfers
from lattica.errors import ConfigError


def test_the_table_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[node]\npublish = ["models/a"]\ndocuments = ["cluster"]\nexpose = ["web=8000"]\n'
    )
    config = load_config(file, environment={"XDG_DATA_HOME": "/data"})
    assert config.node.publish == (tmp_path / "models/a",)
    assert config.node.socket_in(config.data_dir) == Path("/data/lattica/node.sock")
    assert MemberConfig(socket=Path("/run/x")).socket_in(Path("/d")) == Path("/run/x")
    with pytest.raises(ConfigError, match="nobody"):
        load_config(environment={}, overrides={"node.expose_to": ["nobody"]})
    with pytest.raises(ConfigError, match="api is off"):
        load_config(environment={}, overrides={"node.api": False, "node.socket": "/run/x"})


def test_transfers_are_there_while_they_last() -> None:
    transfers = Transfers()
    with transfers.begin("fetch", "/out", "ref") as one, transfers.begin("publish", "/in") as two:
        assert [each.id for each in transfers] == [1, 2]
        one.update(FetchStarted(Cid(bytes(32)), "model", 2, bytes_total=10))
        assert (one.name, one.phase, one.bytes_total) == ("model", "starting", 10)
        one.update(FetchProgress(4, 10, 4, 2.5, 3))
        assert (one.bytes_done, one.rate, one.sources) == (4, 2.5, 3)
        one.update(Checking(5, 10))
        assert (one.rate, one.sources) == (0.0, 0)
        two.update(HashProgress(1, 2))
        assert two.phase == "hashing"
    assert not [*transfers]


async def test_the_log_is_kept_and_followed(autojump_clock: object) -> None:
    logs = LogLines()
    logger = logging.getLogger("lattica.test.daemon")
    with logs.attached():
        logger.warning("first %s", "line")
        position, lines = await logs.after(0)
        assert [each.message for each in lines] == ["first line"]
        assert lines[0].level == "warning"
        for number in range(KEPT + 10):
            logger.warning("%d\x1b[2J", number)
        position, lines = await logs.after(position)
        while len(lines) < KEPT:
            position, more = await logs.after(position)
            lines += more
        assert lines[-1].message.startswith(f"{KEPT + 9}")
        assert "\x1b" not in lines[-1].message
        assert len(logs.last(1000)) == KEPT
        assert logs.last(0) == []
    logger.warning("nobody listens")
    assert logs.last(1)[0].message != "nobody listens"
