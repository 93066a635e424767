"""The original installed beside this package is noticed, with the two commands that mend it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lattica.compat import client
from lattica.doctor.distributions import has_original
from lattica.doctor.facts import DoctorFacts
from lattica.doctor.findings import State, examine

COMMANDS = (
    "`pip uninstall lattica`",
    "`pip install --force-reinstall --no-deps lattica-stack`",
)


def install_original(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = folder / "lattica-1.0.21.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lattica\nVersion: 1.0.21\n")
    monkeypatch.syspath_prepend(str(folder))


def test_the_original_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_original()
    install_original(tmp_path, monkeypatch)
    assert has_original()


@pytest.mark.parametrize("is_there", [False, True])
def test_the_notice_says_so(
    is_there: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if is_there:
        install_original(tmp_path, monkeypatch)
    with caplog.at_level(logging.WARNING):
        client.notice.__wrapped__()
    assert all((command in caplog.text) is is_there for command in COMMANDS)


def test_the_builder_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(client, "notice", lambda: looked.append(True))
    client.CompatLattica()
    assert looked == [True]


def test_the_doctor_says_so() -> None:
    found = [each for each in examine(DoctorFacts(has_original=True)) if each.topic == "packages"]
    assert [each.state for each in found] == [State.BAD]
    assert all(command in found[0].advice for command in COMMANDS)
    assert not [each for each in examine(DoctorFacts()) if each.topic == "packages"]
