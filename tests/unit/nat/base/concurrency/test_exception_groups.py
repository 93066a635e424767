"""What comes out of nurseries, unwrapped."""

from __future__ import annotations

import pytest

from lattica.nat.base.concurrency.exception_groups import leaves, single_error, unwrapped
from lattica.nat.base.errors import LatticaError

BUG, OURS, SYSTEM = KeyError("bug"), LatticaError("ours"), OSError("system")


def group(*errors: BaseException) -> BaseExceptionGroup:
    return BaseExceptionGroup("g", errors)


def test_leaves_in_their_order():
    assert leaves(BUG) == [BUG]
    assert leaves(group(group(BUG, OURS), SYSTEM, group(group(BUG)))) == [BUG, OURS, SYSTEM, BUG]


def test_a_lone_exception_comes_out_of_its_groups_and_several_stay_together():
    several = group(group(BUG), OURS)
    assert unwrapped(group(group(BUG))) is BUG
    assert unwrapped(BUG) is BUG
    assert unwrapped(several) is several


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([SYSTEM, OURS, BUG], BUG),
        ([SYSTEM, OURS], OURS),
        ([SYSTEM, group(LatticaError("first"), OURS)], "first"),
        ([SYSTEM], SYSTEM),
        ([BUG, KeyboardInterrupt("stop")], "stop"),
    ],
)
def test_the_weightiest_is_raised(errors, raised):
    with pytest.raises(BaseException, match=r"\w") as caught, single_error():
        raise group(*errors)
    assert caught.value is raised or str(caught.value) == raised


def test_what_is_no_group_is_left_alone():
    with pytest.raises(KeyError) as caught, single_error():
        raise BUG
    assert caught.value is BUG
