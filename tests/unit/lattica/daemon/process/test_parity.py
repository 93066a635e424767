"""What a Lattica can do it can do with its node in another process."""

from __future__ import annotations

import inspect
import pkgutil

import pytest

from lattica import facades
from lattica.daemon.process.blocking import HERE, ProcessLattica
from lattica.daemon.process.remote import Remote, remote_class
from lattica.facades.blocking import Lattica
from lattica.facades.closable import Closable
from lattica.facades.dht import BlockingDht, BlockingProviders
from lattica.facades.ports import ExposedPort, ForwardedPort
from lattica.facades.store.blocking import (
    BlockingChanges,
    BlockingClaims,
    BlockingCounter,
    BlockingDocument,
    BlockingList,
    BlockingPresence,
    BlockingRegisters,
    BlockingSet,
    BlockingStore,
    BlockingText,
)
from lattica.facades.streams.blocking import BlockingEvents
from lattica.facades.topics.blocking import BlockingMembers, BlockingMessages, BlockingTopic
from lattica.facades.topics.discovery import BlockingDiscovery, BlockingFoundPeers
from lattica.facades.weights.blocking import BlockingWeightPublisher, BlockingWeightSubscriber

IN_THE_PROGRAM = {
    "BlockingItems": "RPC runs in the program",
    "BlockingIterator": "a base",
    "BlockingNamedMethod": "RPC runs in the program",
    "BlockingNamedStub": "RPC runs in the program",
    "BlockingRpc": "RPC runs in the program",
    "BlockingStream": "streams are the program's",
    "BlockingStub": "RPC runs in the program",
    "BlockingSubscription": "a base",
}
REMOTE = [
    BlockingChanges,
    BlockingClaims,
    BlockingCounter,
    BlockingDht,
    BlockingDiscovery,
    BlockingDocument,
    BlockingEvents,
    BlockingFoundPeers,
    BlockingList,
    BlockingMembers,
    BlockingMessages,
    BlockingPresence,
    BlockingProviders,
    BlockingRegisters,
    BlockingSet,
    BlockingStore,
    BlockingText,
    BlockingTopic,
    BlockingWeightPublisher,
    BlockingWeightSubscriber,
    ExposedPort,
    ForwardedPort,
]
BY_CALLING_OTHERS = {
    "receive", "__enter__", "__exit__", "__init__", "__iter__", "__next__",
    "__aenter__", "__aexit__",  # by calling none
}  # fmt: skip


def test_every_call_of_a_lattica_is_made_there_or_is_the_programs_own_part() -> None:
    public = {name for name in vars(Lattica) if not name.startswith("_")}
    for name in public - HERE:
        assert name in vars(ProcessLattica), name
        ours, theirs = getattr(ProcessLattica, name), getattr(Lattica, name)
        assert ours is not theirs, name
        assert ours.__doc__ == theirs.__doc__, name
        if inspect.isfunction(theirs):
            assert inspect.signature(ours) == inspect.signature(theirs), name
    assert {name for name in dir(ProcessLattica) if not name.startswith("_")} == {
        name for name in dir(Lattica) if not name.startswith("_")
    }


@pytest.mark.parametrize("kind", REMOTE)
def test_every_method_of_what_it_gives_is_called_there(kind: type) -> None:
    ours = remote_class(kind)
    assert issubclass(ours, kind)
    assert issubclass(ours, Remote)
    for each in kind.__mro__:
        if not each.__module__.startswith("lattica.facades"):
            continue
        for name, member in vars(each).items():
            if name.startswith("_") and not (name.startswith("__") and name.endswith("__")):
                continue
            if not inspect.isfunction(member) and not isinstance(member, property):
                continue
            if name in BY_CALLING_OTHERS and each is not BlockingRegisters:
                continue
            if name not in BY_CALLING_OTHERS and name != "__repr__":
                assert getattr(ours, name) is not getattr(kind, name), f"{kind.__name__}.{name}"
    if issubclass(kind, Closable):
        assert "close" in vars(ours)


def test_no_class_of_the_blocking_facade_is_forgotten() -> None:
    found = set()
    for module in pkgutil.walk_packages(facades.__path__, "lattica.facades."):
        if module.name.endswith(".vllm") or ".checkpoints." in module.name:
            continue  # They need torch, and have no class of the facade.
        imported = __import__(module.name, fromlist=["_"])
        found |= {
            name
            for name, value in vars(imported).items()
            if inspect.isclass(value)
            and value.__module__ == module.name
            and (name.startswith("Blocking") or name.endswith("Port"))
            and not name.startswith("_")
        }
    assert found == {kind.__name__ for kind in REMOTE} | IN_THE_PROGRAM.keys()


def test_a_subclass_of_a_programs_own_has_no_process() -> None:
    class Own(Lattica):
        pass

    with pytest.raises(Exception, match="process=True is for Lattica itself"):
        Own(process=True)
