"""Fetches that are killed, interrupted or disturbed, as providers are: the next one goes on."""

from __future__ import annotations

import os
import signal
import time

from tests.loopback.commands.commands import (
    MIB,
    TIMEOUT,
    fetch,
    journaled_bytes,
    make_file,
    published,
    same,
    start_fetch,
    wait_for_chunks,
)
from tests.support.nets.nets import unused_port

SLOWLY = ("--max-rate", "16")
"""So that what is done to a fetch comes long before its end."""


def test_unfinished_file_that_is_removed_in_mid_fetch(tmp_path):
    """The exit status is that of the bytes."""
    source = make_file(tmp_path / "f", 48)
    out, again = tmp_path / "out", tmp_path / "again"
    with published(source, tmp_path / "publisher") as provider:
        process = start_fetch(provider.ticket, out, *SLOWLY)
        wait_for_chunks(out, 10, process)
        for path in out.glob(".lattica-*/0"):
            path.unlink()
        _, stderr = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, stderr
        assert same(source, out / "f")
        # By a program that does so all the time.
        process = start_fetch(provider.ticket, again)
        while process.poll() is None:
            for path in again.glob(".lattica-*/0"):
                path.unlink(missing_ok=True)
            time.sleep(0.01)
        _, stderr = process.communicate(timeout=TIMEOUT)
        if process.returncode == 0:
            assert same(source, again / "f")
        else:
            assert process.returncode == 1
            assert "stop that program" in stderr
            assert not (again / "f").exists()


def test_killed_fetch_goes_on_without_fetching_again(tmp_path):
    source = make_file(tmp_path / "f", 64)
    out = tmp_path / "out"
    with published(source, tmp_path / "publisher") as provider:
        killed = 0
        for threshold in (10, 30):
            process = start_fetch(provider.ticket, out, *SLOWLY)
            wait_for_chunks(out, threshold, process)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=TIMEOUT)
            assert process.returncode == -signal.SIGKILL
            killed = journaled_bytes(out, source)
            assert not (out / "f").exists()
        result = fetch(provider.ticket, out)
        assert result["bytes_fetched"] == 64 * MIB - killed
    assert same(source, out / "f")
    assert os.listdir(out) == ["f"]


def test_interrupted_fetch_says_that_it_can_go_on(tmp_path):
    source = make_file(tmp_path / "f", 64)
    out = tmp_path / "out"
    with published(source, tmp_path / "publisher") as provider:
        process = start_fetch(provider.ticket, out, *SLOWLY)
        wait_for_chunks(out, 10, process)
        process.terminate()
        _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on" in stderr


def test_provider_that_is_killed_and_started_again(tmp_path):
    source = make_file(tmp_path / "f", 64)
    out, data = tmp_path / "out", tmp_path / "publisher"
    address = f"/ip4/127.0.0.1/tcp/{unused_port()}"
    with published(source, data, listen=address) as provider:
        process = start_fetch(provider.ticket, out, *SLOWLY)
        wait_for_chunks(out, 10, process)
        provider.process.kill()
        provider.process.wait(TIMEOUT)
    assert process.poll() is None
    with published(source, data, listen=address) as again:
        assert again.ticket == provider.ticket
        _, stderr = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, stderr
    assert "trying again" in stderr
    assert same(source, out / "f")
