"""What `--max-rate` takes."""

from __future__ import annotations

import pytest
import typer

from lattica.cli.shared.options import bytes_a_second, parse_megabytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20", 20e6), ("1.5", 1.5e6), ("500k", 5e5), ("20M", 20e6), ("20MB", 20e6), ("1.5G", 1.5e9)],
)
def test_rates(text: str, expected: float) -> None:
    assert bytes_a_second(parse_megabytes(text)) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "0", "0M", "-1", "nan", "inf", "20e6", "20B", "fast", "1T"])
def test_what_is_no_rate_is_refused_with_examples(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="like 20"):
        parse_megabytes(text)
