"""Fetches that are killed, interrupted or disturbed, as providers are: the next one goes on."""

from __future__ import annotations

import os
import signal
import time

from tests.loopback.commands.commands import (
    MIB,
    fetch,
    journaled_bytes,
    make_file,
    published,
    same,
    start_fetch,
    wait_for_chunks,
)


def test_unfinished_file_that_is_removed_in_mid_fetch(tmp_path):
    """The exit status is that of the bytes."""
    source = make_file(tmp_path / "f", 128)
    out, again = tmp_path / "out", tmp_path / "again"
    with published(source, tmp_path / "publisher") as provider:
        process = start_fetch(provider.ticket, out)
        wait_for_chunks(out, 30, process)
        for path in out.glob(".lattica-*/0"):
            path.unlink()
        _, stderr = process.communicate(timeout=250)
        assert process.returncode == 0, stderr
        assert same(source, out / "f")
        # By a program that does so all the time.
        process = start_fetch(provider.ticket, again)
        while process.poll() is None:
            for path in again.glob(".lattica-*/0"):
                path.unlink(missing_ok=True)
            time.sleep(0.01)
        _, stderr = process.communicate(timeout=60)
        if process.returncode == 0:
            assert same(source, again / "f")
        else:
            assert process.returncode == 1
            assert "stop that program" in stderr
            assert not (again / "f").exists()


def test_killed_fetch_goes_on_without_fetching_again(tmp_path):
    source = make_file(tmp_path / "f", 384)
    out = tmp_path / "out"
    with published(source, tmp_path / "publisher") as provider:
        killed = 0
        for threshold in (40, 120):
            process = start_fetch(provider.ticket, out)
            wait_for_chunks(out, threshold, process)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
            killed = journaled_bytes(out, source)
            assert not (out / "f").exists()
        result = fetch(provider.ticket, out)
        assert result["bytes_fetched"] == 384 * MIB - killed
    assert same(source, out / "f")
    assert os.listdir(out) == ["f"]


def test_interrupted_fetch_says_that_it_can_go_on(tmp_path):
    source = make_file(tmp_path / "f", 384)
    out = tmp_path / "out"
    with published(source, tmp_path / "publisher") as provider:
        process = start_fetch(provider.ticket, out)
        wait_for_chunks(out, 20, process)
        process.terminate()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on" in stderr


def test_provider_that_is_killed_and_started_again(tmp_path):
    source = make_file(tmp_path / "f", 384)
    out, data = tmp_path / "out", tmp_path / "publisher"
    with published(source, data) as provider:
        address = provider.info["addrs"][0]
        process = start_fetch(provider.ticket, out)
        wait_for_chunks(out, 40, process)
        provider.process.kill()
        provider.process.wait(60)
    assert process.poll() is None
    with published(source, data, listen=address) as again:
        assert again.ticket == provider.ticket
        _, stderr = process.communicate(timeout=90)
        assert process.returncode == 0, stderr
    assert "trying again" in stderr
    assert same(source, out / "f")
