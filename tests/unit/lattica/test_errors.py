"""Errors live with what raises them, and users find all of them in one place."""

import lattica
from lattica import errors
from lattica.content import errors as content_errors
from lattica.daemon import errors as daemon_errors
from lattica.dht import errors as dht_errors
from lattica.nat.base import errors as base_errors


def test_every_error_is_public_under_one_name():
    homes = (base_errors, content_errors, daemon_errors, dht_errors)
    raised = {
        name: value
        for home in homes
        for name, value in vars(home).items()
        if isinstance(value, type)
        and issubclass(value, errors.LatticaError)
        and value.__module__ == home.__name__
    }
    assert raised.keys() == set(errors.__all__) - {"DialAttempt"}
    for name, value in raised.items():
        assert getattr(errors, name) is getattr(lattica, name) is value


def test_the_lowest_floor_knows_nothing_of_content():
    assert not hasattr(base_errors, "ContentError")
