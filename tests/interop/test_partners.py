"""How partners are installed: once, again when the recipe changes, and loudly when they can't."""

from __future__ import annotations

import pytest
from _pytest.outcomes import Failed, Skipped

from tests.interop import partners
from tests.interop.partners import Recipe, Unavailable, ensure, require


@pytest.fixture
def installs(tmp_path, monkeypatch):
    """An empty cache, and the list to which recipes add what they did."""
    monkeypatch.setattr(partners, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(partners, "PAUSE_BETWEEN_ATTEMPTS", 0.0)
    return []


def recipe(installs, key="1.0", failures=0):
    def install(folder):
        installs.append(key)
        (folder / "part").write_text(key)
        if len(installs) <= failures:
            raise Unavailable("no network")

    return Recipe("fake", key, install)


def test_installed_once_and_again_when_the_recipe_changes(installs):
    folder = ensure(recipe(installs))
    assert (ensure(recipe(installs)), installs) == (folder, ["1.0"])
    ensure(recipe(installs, key="2.0"))
    assert installs == ["1.0", "2.0"]
    assert (folder / "part").read_text() == "2.0"


def test_failed_attempts_are_repeated_from_scratch(installs):
    ensure(recipe(installs, failures=2))
    assert len(installs) == 3


def test_interrupted_installation_starts_over(installs):
    def stop(folder):
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(Recipe("fake", "1.0", stop))
    folder = ensure(recipe(installs))
    assert sorted(path.name for path in folder.iterdir()) == ["installed", "part"]


@pytest.mark.parametrize(("ci", "outcome"), [("", Skipped), ("false", Skipped), ("true", Failed)])
def test_missing_partner_skips_with_the_reason_but_fails_in_ci(installs, monkeypatch, ci, outcome):
    monkeypatch.setitem(partners.RECIPES, "fake", recipe(installs, failures=99))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="fake: no network"):
        require("fake")
