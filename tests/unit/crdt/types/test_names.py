"""Names in order, as they are asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattica.crdt.types.names import Names

texts = st.text("ab/\U0010ffff", max_size=4)


@given(st.lists(st.tuples(texts, texts), max_size=30))
def test_those_that_begin_alike_are_found_between_new_ones(steps: list[tuple[str, str]]) -> None:
    names, known = Names(), set[str]()
    for name, prefix in steps:
        if name not in known:
            known.add(name)
            names.add(name)
        found = names.beginning(prefix)
        assert found == sorted(each for each in known if each.startswith(prefix))
        found.clear()  # it is whoever asked's
    assert names.beginning("") == sorted(known)
