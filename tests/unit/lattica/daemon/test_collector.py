from __future__ import annotations

import gc

from lattica.daemon.collector import spare_collector


def test_a_process_of_ours_seldom_looks_through_all_objects() -> None:
    before = gc.get_threshold()
    spare_collector()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == (*before[:2], 100)
