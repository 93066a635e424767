"""Which idle times are tried to find out how long a mapping lives."""

from __future__ import annotations

import pytest

from lattica.errors import LocalProtocolError
from lattica.nat.traversal.stun.lifetime import LADDER, LifetimeSearch, MappingLifetime


def search(lifetime: float, *, precision: float, longest: float = 300.0) -> LifetimeSearch:
    """A search that is over, of a NAT that keeps mappings for so long."""
    found = LifetimeSearch(LADDER, precision=precision, longest=longest)
    for _ in range(20):
        for idle in sorted(found.next()):
            found.record(idle, idle < lifetime)
            if idle >= lifetime:
                break  # the others are given up
    assert found.next() == ()
    return found


@pytest.mark.parametrize("lifetime", [2.0, 30.0, 60.0, 120.0, 119.0])
@pytest.mark.parametrize("precision", [1.0, 10.0])
def test_it_closes_in(lifetime, precision):
    result = search(lifetime, precision=precision).result
    assert result.dead_s is not None
    assert (result.alive_s or 0.0) < lifetime <= result.dead_s
    assert result.dead_s - (result.alive_s or 0.0) <= precision


def test_what_lives_longer_than_anybody_waits():
    assert search(1e9, precision=1.0, longest=60.0).result == MappingLifetime(55.0, None)
    assert search(1e9, precision=1.0, longest=3.0).result == MappingLifetime(3.0, None)


def test_nothing_found_out():
    found = LifetimeSearch((5.0,), precision=1.0, longest=60.0)
    assert found.next() == (5.0,)
    assert found.next() == ()
    assert found.result == MappingLifetime()


def test_contradictions_end_it():
    found = LifetimeSearch((5.0, 10.0), precision=1.0, longest=60.0)
    found.next()
    found.record(5.0, False)
    found.record(10.0, True)
    assert found.next() == ()


def test_the_precision_is_checked():
    with pytest.raises(LocalProtocolError):
        LifetimeSearch((5.0,), precision=0.0, longest=60.0)
