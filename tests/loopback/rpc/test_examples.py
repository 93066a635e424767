"""The examples run, and assert their results."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES, run_example


@pytest.mark.parametrize("example", sorted(path.stem for path in EXAMPLES.glob("rpc_*.py")))
def test_example(example: str, tmp_path: Path) -> None:
    run_example(example, tmp_path)
