"""Memory of large messages is kept for the next ones, unless the environment says otherwise."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from lattica.compat.large_blocks import keep_large_blocks

PROGRAM = """
import resource, threading
import lattica
lattica.ConnectionHandler
data = bytes(40 << 20)

def work():
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        two = bytearray(data), bytearray(data)
        del two
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_threads_copy_large_blocks_without_page_faults() -> None:
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    environment.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True, text=True
    )
    # Two copies have 20,480 pages.
    assert int(done.stdout.split()[-1]) < 1000, done.stdout


@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_TRIM_THRESHOLD_": "1"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}],
)
def test_what_the_environment_says_holds(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("the C library was asked"))
    keep_large_blocks(environment)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_large_blocks({})
