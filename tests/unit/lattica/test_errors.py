"""Errors live with what raises them, and users find all of them in one place."""

import ast
import inspect
import subprocess
import sys

import lattica
from lattica import errors
from lattica.content import errors as content_errors
from lattica.crdt.log import errors as crdt_errors
from lattica.daemon import errors as daemon_errors
from lattica.dht import errors as dht_errors
from lattica.nat.base import errors as base_errors
from lattica.rpc import errors as rpc_errors
from lattica.rpc.ports import messages as ports_messages


def test_every_error_is_public_under_one_name():
    homes = (
        base_errors,
        content_errors,
        crdt_errors,
        daemon_errors,
        dht_errors,
        rpc_errors,
        ports_messages,
    )
    raised = {
        name: value
        for home in homes
        for name, value in vars(home).items()
        if isinstance(value, type)
        and issubclass(value, errors.LatticaError)
        and value.__module__ == home.__name__
    }
    del raised["ContradictionError"]  # between peers: no call of a program's raises it
    assert raised.keys() == set(errors.__all__) - {"DialAttempt"}
    for name, value in raised.items():
        assert getattr(errors, name) is getattr(lattica, name) is value


def test_type_checkers_know_every_name():
    [block] = [
        node
        for node in ast.parse(inspect.getsource(lattica)).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    known = {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert known == set(lattica.__all__) - {"__version__"}


def test_a_program_that_only_catches_errors_loads_no_network():
    code = "import sys, lattica.errors; sys.exit('trio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_lowest_floor_knows_nothing_of_content():
    assert not hasattr(base_errors, "ContentError")
