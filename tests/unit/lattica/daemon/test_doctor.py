"""What `lattica doctor` says of a node that runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.status import plain
from lattica.doctor.findings import State
from lattica.doctor.machine import MachineFacts, examine_machine
from lattica.doctor.running_node import examine_running, unusable

VERSION = "1.0"


def states(**fields: Any) -> list[State]:
    status = pb.NodeStatus(**{"pid": 7, "version": VERSION, **fields})
    return [each.state for each in examine_running(plain(status), VERSION)]


def test_a_node_that_is_well() -> None:
    peers = [pb.Peer(path="direct-tcp"), pb.Peer(path="relayed")]
    [finding] = examine_running(plain(pb.NodeStatus(version=VERSION, peers=peers)), VERSION)
    assert finding.state is State.OK
    assert "2 peers, 1 of them through relays" in finding.text
    assert "lattica paths" in finding.advice
    # Nobody was named, so that nobody is missing.
    assert states() == [State.OK]


def test_what_is_wrong() -> None:
    assert states(bootstrap=["/ip4/192.0.2.1/tcp/1"]) == [State.BAD]
    assert states(version="0.9") == [State.OK, State.WARN]
    assert states(announcing=["a relay has not answered"]) == [State.OK, State.WARN]
    assert states(dht=pb.Dht(storage="disk")) == [State.OK]
    assert states(dht=pb.Dht(storage="the disk is full")) == [State.OK, State.BAD]
    assert unusable("it does not answer").state is State.BAD


def test_a_relay_near_its_limits() -> None:
    def relay(reservations: int, circuits: int) -> pb.Relay:
        return pb.Relay(
            reservations=reservations, max_reservations=100, circuits=circuits, max_circuits=10
        )

    assert states(relay=relay(89, 8)) == [State.OK]
    assert states(relay=relay(90, 8)) == [State.OK, State.WARN]
    assert states(relay=relay(100, 10)) == [State.OK, State.WARN, State.WARN]
    assert states(relay=pb.Relay()) == [State.OK]


MANY = MachineFacts(65_536, 4096, 4096, 16 << 20)


def test_what_the_machine_allows() -> None:
    files, buffers = examine_machine(MANY)
    assert (files.state, buffers.state) == (State.OK, State.OK)
    files, buffers = examine_machine(MachineFacts(1024, 672, 4096, 425_984))
    assert files.state is State.WARN
    assert "1024 files" in files.text
    assert "672 connections" in files.text
    assert "LimitNOFILE" in files.advice
    assert buffers.state is State.WARN
    assert "0.4 MiB" in buffers.text
    assert "net.core.rmem_max=8388608" in buffers.advice
    (files,) = examine_machine(replace(MANY, receive_buffer=0))  # not known: nothing is said
