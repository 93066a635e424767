"""The network monitor hears from the kernel what happens to real interfaces, and says it once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.netlab.holders import namespaces, require_root

pytestmark = pytest.mark.root

PROGRAM = str(Path(__file__).with_name("stun_programs.py"))


def test_interfaces_addresses_and_routes() -> None:
    require_root()
    with namespaces(1) as (holder,):
        holder.ip(
            "link add eth0 type veth peer name far0",
            "link set far0 up",
            "link set eth0 up",
            "addr add 10.0.0.1/24 dev eth0",
            "route add default via 10.0.0.2",
        )
        with holder.start(PROGRAM, "watch") as program:

            def next_reason() -> Any:
                return program.line()["reason"]

            holder.ip("addr add 10.0.1.1/24 dev eth0")
            assert next_reason() == "new address: eth0 10.0.1.1/24"
            holder.ip("route replace default via 10.0.1.2")
            assert next_reason() == "the default route has changed"
            holder.ip("link set eth0 down")
            assert next_reason() == (
                "address gone: eth0 10.0.0.1/24, address gone: eth0 10.0.1.1/24"
            )
            # What comes back before it has settled, or does not matter, is not worth a word.
            holder.ip(
                "link set lo down", "link set lo up", "link add other0 type veth peer name far1"
            )
            holder.ip("link set eth0 up")
            assert next_reason() == ("new address: eth0 10.0.0.1/24, new address: eth0 10.0.1.1/24")
