"""Content: files and checkpoints, published by one peer and fetched, verified, by others.

:class:`Publisher` serves files without copying them and makes tickets; :func:`fetch` turns a
ticket into verified files. :class:`WeightPublisher` and :class:`WeightSubscriber` are a channel of
weights, version after version. Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.content.download.fetcher import fetch
    from lattica.content.download.finding import fetch_manifest
    from lattica.content.download.options import FetchOptions, FetchResult, FetchSource
    from lattica.content.download.ranges import ByteRange
    from lattica.content.events import (
        Checking,
        FetchEvent,
        FetchProgress,
        FetchStarted,
        FileDone,
        HashProgress,
        Progress,
        Retrying,
        Sharing,
    )
    from lattica.content.manifest.cid import Cid
    from lattica.content.publish.server import Publisher, PublisherLimits
    from lattica.content.tensors.elements import RawTensor
    from lattica.content.tensors.mapped import MappedTensors
    from lattica.content.tensors.state_dict import load_state_dict, publish_state_dict
    from lattica.content.tensors.streaming import stream_tensors
    from lattica.content.ticket import Ticket
    from lattica.content.weights.announcement import Channel
    from lattica.content.weights.options import PushedVersion, WeightOptions, WeightVersion
    from lattica.content.weights.publisher import WeightPublisher
    from lattica.content.weights.subscriber import WeightSubscriber

_HOME = {
    "ByteRange": "download.ranges",
    "Channel": "weights.announcement",
    "Checking": "events",
    "Cid": "manifest.cid",
    "FetchEvent": "events",
    "FetchOptions": "download.options",
    "FetchProgress": "events",
    "FetchResult": "download.options",
    "FetchSource": "download.options",
    "FetchStarted": "events",
    "FileDone": "events",
    "HashProgress": "events",
    "MappedTensors": "tensors.mapped",
    "Progress": "events",
    "Publisher": "publish.server",
    "PublisherLimits": "publish.server",
    "PushedVersion": "weights.options",
    "RawTensor": "tensors.elements",
    "Retrying": "events",
    "Sharing": "events",
    "Ticket": "ticket",
    "WeightOptions": "weights.options",
    "WeightPublisher": "weights.publisher",
    "WeightSubscriber": "weights.subscriber",
    "WeightVersion": "weights.options",
    "fetch": "download.fetcher",
    "fetch_manifest": "download.finding",
    "load_state_dict": "tensors.state_dict",
    "publish_state_dict": "tensors.state_dict",
    "stream_tensors": "tensors.streaming",
}

__all__ = [
    "ByteRange",
    "Channel",
    "Checking",
    "Cid",
    "FetchEvent",
    "FetchOptions",
    "FetchProgress",
    "FetchResult",
    "FetchSource",
    "FetchStarted",
    "FileDone",
    "HashProgress",
    "MappedTensors",
    "Progress",
    "Publisher",
    "PublisherLimits",
    "PushedVersion",
    "RawTensor",
    "Retrying",
    "Sharing",
    "Ticket",
    "WeightOptions",
    "WeightPublisher",
    "WeightSubscriber",
    "WeightVersion",
    "fetch",
    "fetch_manifest",
    "load_state_dict",
    "publish_state_dict",
    "stream_tensors",
]

# Hidden from type checkers: to them a module with `__getattr__` has every name, typos included.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'lattica.content' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"lattica.content.{_HOME[name]}"), name)
        globals()[name] = value
        return value
