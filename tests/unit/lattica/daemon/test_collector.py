from __future__ import annotations

import gc

import pytest

from lattica.daemon.collector import spare_collector


def test_a_process_of_ours_seldom_looks_through_all_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    before = gc.get_threshold()
    spare_collector()
    assert frozen
    assert gc.get_threshold() == (*before[:2], 100)
