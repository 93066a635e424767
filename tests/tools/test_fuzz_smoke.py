"""A short run of every fuzz target with a fixed seed, and tests of the fuzzer itself."""

from __future__ import annotations

import pytest

from lattica.errors import RemoteProtocolError
from tools.fuzz import engine, growth
from tools.fuzz.table import TARGETS, load
from tools.fuzz.target import KIB, MIB, Target, Violation, try_input

SEED = 20261122
SECONDS = 0.15
MAX_RUNS = 5000


@pytest.mark.parametrize("name", TARGETS)
def test_decoder_raises_only_what_it_documents(name):
    report = engine.fuzz(load(name), seed=SEED, seconds=SECONDS, max_runs=MAX_RUNS)
    shown = [engine.describe(crash, engine.save(crash)) for crash in report.crashes]
    assert not shown, "\n\n".join(shown)


@pytest.mark.parametrize("name", TARGETS)
def test_time_grows_no_faster_than_the_input(name):
    crash = growth.check(load(name), seed=SEED, seconds=SECONDS, max_runs=50)
    assert crash is None, crash.report


def _quadratic(data: bytes) -> None:
    for start in range(0, len(data), 8):
        data[start:].count(b"x")


def _slow(data: bytes) -> None:
    for _ in data:
        sum(range(10_000))


@pytest.mark.parametrize(("run", "small", "large"), [(_quadratic, 4, 32), (_slow, 0.125, 1)])
def test_time_that_grows_too_fast_is_found(run, small, large, monkeypatch):
    monkeypatch.setattr(growth, "SMALL", int(small * KIB))
    monkeypatch.setattr(growth, "LARGE", int(large * KIB))
    monkeypatch.setattr(growth, "_DOUBTS", 3)
    target = Target("growing", run, (), seeds=[b"some bytes"])
    crash = growth.check(target, seed=SEED, seconds=60)
    assert crash is not None
    assert "bytes take" in crash.report


def _fragile(data: bytes) -> None:
    """Documented error for a bad first byte; bugs behind a good one."""
    if data[:1] != b"\x01":
        raise RemoteProtocolError("version")
    match data[1:2]:
        case b"\x02":
            raise KeyError("a bug")
        case b"\x03":
            bytearray(64 * MIB)
        case b"\x04":
            while True:
                pass
        case b"\x05":
            raise Violation("inconsistent")


FRAGILE = Target(
    "fragile", _fragile, (RemoteProtocolError,), seeds=[b"\x01\x00rest"], max_seconds=0.05
)


@pytest.mark.parametrize(
    ("data", "signature"),
    [
        (b"\x00", None),
        (b"\x01\x00", None),
        (b"\x01\x02", "KeyError"),
        (b"\x01\x03", "Violation"),
        (b"\x01\x04", "Hang"),
        (b"\x01\x05", "Violation"),
    ],
)
def test_misbehaviour_is_told_from_documented_errors(data, signature):
    crash = try_input(FRAGILE, data, measure_memory=True)
    assert (crash and crash.signature[0]) == signature


def test_random_engine_finds_shrinks_and_repeats():
    target = Target("fragile", _fragile, (RemoteProtocolError,), seeds=[b"\x01\x00rest"] * 2)

    def run():
        return engine.fuzz(target, seed=SEED, seconds=60.0, max_runs=400)

    report = run()
    assert b"\x01\x02" in {crash.data for crash in report.crashes}
    assert run() == report


def test_crash_is_saved_with_the_command_that_repeats_it(tmp_path):
    crash = try_input(FRAGILE, b"\x01\x02")
    assert crash is not None
    path = engine.save(crash, tmp_path)
    assert path.read_bytes() == crash.data
    text = engine.describe(crash, path)
    assert f"python -m tools.fuzz fragile --input {path}" in text
    assert "KeyError" in text
