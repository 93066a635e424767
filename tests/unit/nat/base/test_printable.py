"""Whatever goes out is printable, and what is not is shown by its code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.printable import json_text, printable, printable_lines, rough_duration


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("größer 模型 🦀", "größer 模型 🦀"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\x7fb\x00", r"a\x7fb\x00"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("\u2066x\u2069\u200b", r"\u2066x\u2069\u200b"),
        ("one\ntwo\r\u2028three\x85", r"one\ntwo\r\u2028three\x85"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_shown_by_code(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_printable_is_printable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert [line.isprintable() for line in printable_lines(text).split("\n")] == [
        True for _ in text.split("\n")
    ]


@given(
    st.recursive(st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_json_is_printable_ascii_and_the_same(value: object) -> None:
    line = json_text(value)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == value


def test_numbers_that_json_does_not_have_become_their_texts() -> None:
    value = {"loss": [math.nan, (math.inf, 1.5)], "of": Path("a")}
    assert json.loads(json_text(value), parse_constant=pytest.fail) == {
        "loss": ["nan", ["inf", 1.5]],
        "of": "a",
    }


def test_errors_of_ours_are_printable_and_keep_what_came() -> None:
    import lattica.errors as errors

    hostile = "401 \x1b]0;owned\x07\u202e\x9b2J\nnext"
    attempts = [errors.DialAttempt("/ip4/192.0.2.1/tcp/1", hostile)]
    for error in (
        errors.RemoteProtocolError(hostile),
        errors.StorageError(hostile),
        errors.DialError("X", attempts),
        errors.StreamResetError(hostile, 3),
        errors.PeerMismatchError("a", hostile),
        errors.UnsupportedProtocolError("X", [hostile]),
    ):
        assert str(error).replace("\n", "").isprintable()
        assert r"\x1b]0;owned\x07\u202e\x9b2J" in str(error)
    assert errors.RemoteProtocolError(hostile).args == (hostile,)
    assert str(errors.LatticaError()) == ""
    assert str(errors.StorageError(2, "No\x1b", "file")) == r"[Errno 2] No\x1b: 'file'"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (90, "2 min"),
        (3600, "1.0 h"),
        (90_000, "25.0 h"),
        (777_600_000, "9000 days"),
    ],
)
def test_differences_of_clocks(seconds, text):
    assert rough_duration(seconds) == text
