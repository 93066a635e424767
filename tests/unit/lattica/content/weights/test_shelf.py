"""Where versions of weights lie."""

from __future__ import annotations

import os

import pytest

from lattica.content.weights.shelf import open_shelf
from lattica.errors import StorageError

SOMEBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user: needs root")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
async def test_where_others_can_write_no_weights_are_kept(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(StorageError, match="other users can write into"):
        async with open_shelf(tmp_path):
            pass


@as_root
async def test_nor_in_a_directory_of_another_user(tmp_path):
    os.chown(tmp_path, SOMEBODY, SOMEBODY)
    with pytest.raises(StorageError, match="other users can write into"):
        async with open_shelf(tmp_path):
            pass


async def test_a_directory_below_one_for_all_is_made(tmp_path):
    tmp_path.chmod(0o1777)
    async with open_shelf(tmp_path / "weights") as shelf:
        assert shelf.top.stat().st_mode & 0o002 == 0
