"""The service's methods, as `node.proto` has them: for the server and the client alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from lattica.daemon.api.pb import node_pb2

SERVICE = "lattica.node.v1.Node"
MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of a message either way."""


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One of them."""

    name: str
    """As in the .proto file, such as "DhtPut"."""
    attribute: str
    """As in Python, such as "dht_put"."""
    request: type[Message]
    response: type[Message]
    streams: bool
    """Whether there are many responses."""

    @property
    def path(self) -> str:
        """Of the call in HTTP/2."""
        return f"/{SERVICE}/{self.name}"


def methods() -> Iterator[MethodSpec]:
    """All."""
    for method in node_pb2.DESCRIPTOR.services_by_name["Node"].methods:
        yield MethodSpec(
            method.name,
            re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method.name).lower(),
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.server_streaming,
        )
