"""The probe's messages and verdicts."""

from __future__ import annotations

import pytest

from lattica.errors import RemoteProtocolError
from tools.netlab.packets.stun import StunMessage, decode, encode, message_bytes
from tools.netlab.probe.verdicts import filtering_behaviour, mapping_behaviour, port_allocation

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")

MESSAGES = [
    StunMessage(True, TRANSACTION),
    StunMessage(True, TRANSACTION, change_ip=True),
    StunMessage(True, TRANSACTION, change_port=True, response_port=9),
    StunMessage(True, TRANSACTION, change_ip=True, change_port=True),
    StunMessage(
        False,
        TRANSACTION,
        mapped=("192.0.2.1", 32853),
        origin=("198.51.100.1", 3478),
        other=("198.51.100.2", 3479),
    ),
    StunMessage(False, TRANSACTION, mapped=("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_round_trip(message: StunMessage) -> None:
    data = encode(message)
    assert message_bytes(data[:20]) == len(data)
    assert decode(data) == message


@pytest.mark.parametrize(
    ("mapped", "attribute"),
    [
        # RFC 5769 sections 2.2 and 2.3.
        (("192.0.2.1", 32853), "0020 0008 0001 a147 e112a643"),
        (
            ("2001:db8:1234:5678:11:2233:4455:6677", 32853),
            "0020 0014 0002 a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9",
        ),
    ],
)
def test_addresses_are_as_in_rfc_5769(mapped: tuple[str, int], attribute: str) -> None:
    expected = bytes.fromhex(attribute)
    head = bytes.fromhex("0101") + len(expected).to_bytes(2, "big") + bytes.fromhex("2112a442")
    assert encode(StunMessage(False, TRANSACTION, mapped=mapped)) == head + TRANSACTION + expected


def test_optional_attributes_are_ignored_and_others_refused() -> None:
    def with_attribute(kind: str) -> bytes:
        head = bytes.fromhex("0001 0008 2112a442") + TRANSACTION
        return head + bytes.fromhex(kind + "0003 61626300")

    assert decode(with_attribute("8022")) == StunMessage(True, TRANSACTION)
    with pytest.raises(RemoteProtocolError, match="0x0006"):
        decode(with_attribute("0006"))


@pytest.mark.parametrize(
    "data",
    [
        "",
        "0001 0000 2112a442 b7e7a701bc34d686fa87df",  # short
        "0001 0000 2112a443 b7e7a701bc34d686fa87dfae",  # cookie
        "0111 0000 2112a442 b7e7a701bc34d686fa87dfae",  # an error response
        "0001 0001 2112a442 b7e7a701bc34d686fa87dfae 00",  # not a multiple of four
        "0001 0004 2112a442 b7e7a701bc34d686fa87dfae",  # the body is missing
        "0001 0000 2112a442 b7e7a701bc34d686fa87dfae 00",  # more than a message
        "0001 fffc 2112a442 b7e7a701bc34d686fa87dfae",
        "0001 0004 2112a442 b7e7a701bc34d686fa87dfae 80220001",  # attribute without value
        "0001 0008 2112a442 b7e7a701bc34d686fa87dfae 0003000200060000",  # its size
        "0101 0008 2112a442 b7e7a701bc34d686fa87dfae 0020000400010000",
        "0101 0008 2112a442 b7e7a701bc34d686fa87dfae 0020000400030000",  # its family
        "0101 0004 2112a442 b7e7a701bc34d686fa87dfae 00200000",
    ],
)
def test_damaged_messages(data: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(bytes.fromhex(data))


ONE, TWO, THREE = ("192.0.2.1", 1), ("192.0.2.1", 2), ("192.0.2.1", 3)


def test_mapping_verdicts() -> None:
    assert mapping_behaviour(ONE, ONE, ONE) == "endpoint-independent"
    assert mapping_behaviour(ONE, TWO, TWO) == "address-dependent"
    assert mapping_behaviour(ONE, TWO, THREE) == "address-and-port-dependent"
    assert mapping_behaviour(ONE, None, ONE) is None


def test_filtering_verdicts() -> None:
    assert filtering_behaviour(True, True) == "endpoint-independent"
    assert filtering_behaviour(False, True) == "address-dependent"
    assert filtering_behaviour(False, False) == "address-and-port-dependent"


@pytest.mark.parametrize(
    ("externals", "verdict"),
    [
        ([7, 5, 9, 6], "preserving"),
        ([100, 101, 102, 103], "sequential"),
        ([100, 102, 107, 109], "sequential"),
        ([65534, 65535, 1024, 1025], "sequential"),
        ([40000, 51000, 1025, 30000], "random"),
        ([100, 100, 100, 100], "random"),
        ([103, 102, 101, 100], "random"),
        ([7, 5, 9, 8], "random"),
    ],
)
def test_port_verdicts(externals: list[int], verdict: str) -> None:
    assert port_allocation(list(zip([7, 5, 9, 6], externals, strict=True))) == verdict
