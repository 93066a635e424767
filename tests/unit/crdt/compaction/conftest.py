"""What a snapshot has changed in a log is what the file says."""

from __future__ import annotations

from typing import Any

import pytest

from lattica.crdt.log.disk.replica import Replica, load_log


@pytest.fixture(autouse=True)
def _log_is_as_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Replica.take_prefixes

    def checked(replica: Replica, *args: Any) -> bool:
        is_news = take(replica, *args)
        kept = load_log(replica.genesis, replica.database, replica.log.config)
        assert {each.author: _said(each) for each in replica.log.feeds.values()} == {
            each.author: _said(each) for each in kept.feeds.values()
        }
        assert replica.log._dependencies.known == kept._dependencies.known
        return is_news

    monkeypatch.setattr(Replica, "take_prefixes", checked)


def _said(feed: Any) -> tuple[Any, ...]:
    return feed.identity, feed.ids, feed.hlc, feed.size, feed.fork, feed.is_cut
