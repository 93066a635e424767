"""Memory from another process: taken only if it cannot be taken away."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

import pytest

from lattica.nat.base.errors import RemoteProtocolError
from lattica.rpc.data_plane.shared import memory
from lattica.rpc.data_plane.shared.slots import SLOT

pytestmark = pytest.mark.skipif(not memory.IS_AVAILABLE, reason="there is no memfd_create(2) here")


def unsealed(size: int = SLOT) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


def sealed(size: int, seals: int) -> int:
    descriptor = unsealed(size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


SHRINK, GROW, SEAL = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL


def test_what_one_writes_the_other_reads() -> None:
    ours, descriptor = memory.create(2)
    theirs = memory.adopt(os.dup(descriptor))
    ours.view[SLOT : SLOT + 5] = b"hello"
    assert bytes(theirs.view[SLOT : SLOT + 5]) == b"hello"
    assert theirs.view.readonly
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(descriptor, 0)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(descriptor, 3 * SLOT)
    os.close(descriptor)
    ours.close()
    assert bytes(theirs.view[SLOT : SLOT + 5]) == b"hello"
    theirs.close()


@pytest.mark.parametrize(
    "make",
    [
        unsealed,
        lambda: sealed(SLOT, GROW | SEAL),
        lambda: sealed(SLOT, SHRINK),
        lambda: sealed(SLOT + 4096, SHRINK | GROW | SEAL),
        lambda: sealed(0, SHRINK | GROW | SEAL),
        lambda: sealed((memory.MOST_SLOTS + 1) * SLOT, SHRINK | GROW | SEAL),
        lambda: os.open("/dev/zero", os.O_RDWR),
        lambda: os.open(str(Path(__file__)), os.O_RDONLY),
        lambda: os.pipe()[0],
    ],
)
def test_anything_else_is_refused_and_not_closed_here(make) -> None:
    """Closing it may have to wait."""
    descriptor = make()
    with pytest.raises(RemoteProtocolError):
        memory.adopt(descriptor)
    os.close(descriptor)


def test_no_more_is_taken_than_is_said() -> None:
    descriptor = sealed(3 * SLOT, SHRINK | GROW | SEAL)
    with pytest.raises(RemoteProtocolError, match=f"of {3 * SLOT} bytes"):
        memory.adopt(descriptor, 2)
    theirs = memory.adopt(descriptor, 3)
    assert theirs.slots == 3
    theirs.close()
    theirs.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


def test_holes_are_not_read_and_take_no_pages() -> None:
    ours, descriptor = memory.create(4)
    theirs = memory.adopt(os.dup(descriptor))
    ours.view[SLOT : SLOT + 100] = bytes(range(100))
    assert bytes(theirs.filled(SLOT, 100)) == bytes(range(100))
    taken = os.fstat(descriptor).st_blocks
    for start, size in ((0, 1), (0, SLOT), (SLOT, SLOT), (2 * SLOT, 5), (9 * SLOT, 1)):
        with pytest.raises(RemoteProtocolError):
            theirs.filled(start, size)
    assert os.fstat(descriptor).st_blocks == taken
    os.close(descriptor)
    ours.close()
    theirs.close()


def test_memory_in_large_pages_of_which_there_may_be_none_is_refused() -> None:
    try:
        descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
        os.ftruncate(descriptor, 2 * SLOT)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SHRINK | GROW | SEAL)
    except OSError as error:
        pytest.skip(f"no large pages here: {error}")
    assert os.fstatvfs(descriptor).f_bsize != mmap.PAGESIZE
    with pytest.raises(RemoteProtocolError, match="taken away"):
        memory.adopt(descriptor)
    os.close(descriptor)
