"""What is meant for the other facade says what there is here."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

from lattica import AsyncLattica, Lattica, Node, facades
from lattica.facades.closable import OnlyAsyncWith, OnlyWith
from lattica.facades.store import aio, blocking


def of_the_facades() -> list[type]:
    modules = [
        import_module(each.name)
        for each in pkgutil.walk_packages(facades.__path__, "lattica.facades.")
        if "checkpoints" not in each.name  # needs torch
    ]
    return [
        value
        for module in modules
        for name, value in vars(module).items()
        if name.startswith(("Async", "Blocking", "Lattica"))
        and isinstance(value, type)
        and value.__module__ == module.__name__
    ]


@pytest.mark.parametrize("kind", [*of_the_facades(), Node])
def test_each_is_used_with_one_of_both(kind: type) -> None:
    if hasattr(kind, "__exit__") or hasattr(kind, "__aexit__"):
        assert hasattr(kind, "__exit__")
        assert hasattr(kind, "__aexit__")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Lattica, "use `with` for Lattica; `async with` is for AsyncLattica "),
        (blocking.BlockingDocument, "use `with` for .*; `async with` is for AsyncDocument "),
        (aio.AsyncChanges, r"use `with` for AsyncChanges \(docs"),
    ],
)
async def test_under_asyncio(kind: type[OnlyWith], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        async with kind.__new__(kind):
            pass


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (AsyncLattica, "use `async with` for AsyncLattica; `with` is for Lattica "),
        (aio.AsyncDocument, "use `async with` for .*; `with` is for BlockingDocument "),
    ],
)
def test_without_a_loop(kind: type[OnlyAsyncWith], text: str) -> None:
    with pytest.raises(TypeError, match=text), kind.__new__(kind):
        pass


def test_parts_of_documents_under_asyncio_have_methods() -> None:
    registers = aio.AsyncRegisters.__new__(aio.AsyncRegisters)
    text = r"AsyncRegisters has methods .*get, set.* are for BlockingRegisters"
    with pytest.raises(TypeError, match=text):
        registers["name"]
    with pytest.raises(TypeError, match=text):
        registers["name"] = 1
    with pytest.raises(TypeError, match=text):
        del registers["name"]
    with pytest.raises(TypeError, match=text):
        "name" in registers  # noqa: B015
    with pytest.raises(TypeError, match=text):
        len(registers)
    with pytest.raises(TypeError, match=text):
        iter(registers)
