"""Content ids, tickets and file names: what people paste and what strangers send."""

from __future__ import annotations

import hashlib
import tracemalloc

import msgpack
import pytest

from lattica.content.manifest.cid import Cid
from lattica.content.manifest.paths import check_path, check_paths
from lattica.content.ticket import Ticket
from lattica.errors import RemoteProtocolError, TicketError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr

PEER = Identity.generate().peer_id
ADDRS = (Multiaddr("/ip4/192.0.2.1/tcp/4001"), Multiaddr("/dns4/example.org/tcp/443/ws"))
TICKET = Ticket(Cid.of(b"x"), PEER, ADDRS)


def test_cid_text_is_the_one_other_implementations_use():
    # `ipfs add --cid-version 1 --raw-leaves` of "hello\n" (CIDv1, raw, sha2-256).
    cid = Cid.of(b"hello\n")
    assert str(cid) == "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"
    assert Cid.parse(str(cid)) == cid
    assert Cid.from_bytes(bytes(cid)) == cid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "QmT5NvUtoM5nWFfrQdVrFtvGfKFmG7AHE8P34isapyhCxX",
        "BAFKREICYSG23KIWV34EG2D7QWEIPXWOSDO2PY4LDV42NBAUGULUEN5V6AM",
        "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6a",
        "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6an",  # spare bits set
        "bafybeicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am",  # dag-pb
        "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6a\n",
        "b" + "é" * 58,
    ],
)
def test_other_forms_of_cid_are_refused(text):
    with pytest.raises(TicketError, match="content id"):
        Cid.parse(text)


@pytest.mark.parametrize(
    "data", [b"", bytes(36), bytes(Cid.of(b""))[:-1], bytes(Cid.of(b"")) + b"\0"]
)
def test_binary_cids_from_peers_are_checked(data):
    with pytest.raises(RemoteProtocolError):
        Cid.from_bytes(data)


def test_ticket_round_trip_survives_wrapping_and_case():
    text = str(TICKET)
    assert text.isalnum()
    assert Ticket.parse(text) == TICKET
    assert Ticket.parse(f"  {text[:40]}\n  {text[40:].upper()}\n") == TICKET


@pytest.mark.parametrize(
    "quoted", ['"{}"', "'{}'", " “{}”\n", "`{}`", "<{}>", "„{}“", "«{}»", '" {} "', "\ufeff{}"]
)
def test_quotes_round_a_ticket_do_not_matter(quoted):
    text = str(TICKET)
    assert Ticket.parse(quoted.format(text)) == TICKET
    assert Ticket.parse(quoted.format(f"{text[:40]}\n{text[40:]}")) == TICKET
    with pytest.raises(TicketError):
        Ticket.parse(f'{text[:40]}"{text[40:]}')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t: t[:-1], "truncated: 1 of"),
        (lambda t: t[:30], "truncated"),
        (lambda t: t[:9], "truncated"),
        (lambda t: t[:8], "truncated"),
        (lambda t: t[:7], "truncated"),
        (lambda t: t[:5], "begins with"),
        (lambda t: "", "begins with"),
        (lambda t: t + "aa", "2 characters too many"),
        (lambda t: t[:50] + ("a" if t[50] != "a" else "b") + t[51:], "mistyped"),
        (lambda t: t[:50] + t[51] + t[50] + t[52:] if t[50] != t[51] else t[:-1], "mistyped|trunc"),
        (lambda t: t[:50] + "!" + t[51:], "'!' as its character 51"),
        (lambda t: "lattica2" + t[8:], "version '2'"),
        (lambda t: "a" * 10_000, "too many for a ticket"),
    ],
)
def test_damaged_tickets_say_what_is_wrong(damage, says):
    with pytest.raises(TicketError, match=says):
        Ticket.parse(damage(str(TICKET)))


@pytest.mark.parametrize(
    "body",
    [
        msgpack.packb(1),
        msgpack.packb([]),
        msgpack.packb([b"", b"", []]),
        msgpack.packb([bytes(32), b"", []]),
        msgpack.packb([bytes(32), b"not a peer", []]),
        msgpack.packb([bytes(32), PEER.to_bytes(), [b"\xff\xff"]]),
        msgpack.packb([bytes(32), PEER.to_bytes(), ["text"]]),
        msgpack.packb([bytes(32), PEER.to_bytes(), [ADDRS[0].to_bytes()] * 17]),
        msgpack.packb([bytes(32), PEER.to_bytes(), []]) + b"\0",
        b"\xc1",
        b"",
    ],
)
def test_ill_formed_tickets_with_a_right_checksum(body):
    import base64

    data = (len(body) + 6).to_bytes(2, "big") + body
    data += hashlib.sha256(data).digest()[:4]
    text = "lattica1" + base64.b32encode(data).decode().rstrip("=").lower()
    with pytest.raises(TicketError, match="well-formed"):
        Ticket.parse(text)


def test_ticket_leaves_loopback_out_where_there_is_better():
    addrs = [Multiaddr(f"{a}/p2p/{PEER}") for a in ("/ip4/127.0.0.1/tcp/1", "/ip4/192.0.2.1/tcp/1")]
    assert [str(a) for a in Ticket.make(Cid.of(b""), PEER, addrs).addrs] == ["/ip4/192.0.2.1/tcp/1"]
    assert [str(a) for a in Ticket.make(Cid.of(b""), PEER, addrs[:1]).addrs] == [
        "/ip4/127.0.0.1/tcp/1"
    ]
    many = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}") for port in range(1, 100)]
    assert len(Ticket.parse(str(Ticket.make(Cid.of(b""), PEER, many))).addrs) == 16


def test_relayed_address_in_a_ticket_keeps_its_relay():
    relay = Identity.generate().peer_id
    addr = Multiaddr(f"/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{PEER}")
    ticket = Ticket.parse(str(Ticket.make(Cid.of(b""), PEER, [addr])))
    assert [str(a) for a in ticket.addrs] == [f"/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit"]


@pytest.mark.parametrize(
    "path", ["a", "a/b.c", "ü/é", "…", "a b", "ab:c", ".hidden", "c/.lattica-x"]
)
def test_ordinary_paths_pass(path):
    check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "a//b",
        "a/",
        "..",
        "../a",
        "a/../b",
        "a/..",
        ".",
        "a/./b",
        "a\0b",
        "a\nb",
        "a\x1b[31m",
        "a\\b",
        "c:\\x",
        "C:x/y",
        "a\u202eb",
        "a\u2028b",
        "\ud800",
        "x" * 256,
        "é" * 200,
        "/".join("ab" for _ in range(65)),
        "/".join("x" * 200 for _ in range(6)),
        ".lattica-0123/journal",
        ".LATTICA-x",
    ],
)
def test_paths_that_could_do_harm_are_refused(path):
    with pytest.raises(ValueError, match=r"path|name"):
        check_path(path)


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "a"],
        ["README", "readme"],
        ["straße", "STRASSE"],
        ["é", "e\u0301"],
        ["a", "a/b"],
        ["a/b", "A"],
        ["dir/x", "DIR/y"],
        ["x", "a/b/c", "a/b"],
    ],
)
def test_paths_that_collide_are_refused(paths):
    for order in (paths, paths[::-1]):
        with pytest.raises(ValueError, match=r"collide|both|twice"):
            check_paths(order)


def test_paths_that_look_the_same_are_told_apart():
    with pytest.raises(ValueError, match=r"'e\\u0301' and '\\xe9' collide"):
        check_paths(["e\u0301", "\xe9"])


def test_many_files_in_one_directory_do_not_collide():
    check_paths(["a/b/c", "a/b/d", "a/e", "f"])


def deep(number: int, depth: int = 40) -> str:
    return "/".join([*(f"{number:x}-{level:x}" for level in range(depth)), "file"])


def test_directories_are_counted_and_may_not_be_many_more_than_files():
    assert check_paths(["a/b/c", "a/b/d", "a/e", "f"]) == 2
    assert check_paths([deep(0)]) == 40
    assert check_paths([f"{n}/x/y/z/file" for n in range(500)]) == 2000
    with pytest.raises(ValueError, match="more than 5024 directories"):
        check_paths([deep(n, 63) for n in range(1000)])


def test_however_long_all_paths_are_together_memory_is_bounded_by_them():
    """40,000 deep paths took 1.9 GiB, as each beginning of each was kept."""
    paths = [deep(n % 20, 30) + f"{n}" for n in range(5000)]
    tracemalloc.start()
    try:
        assert check_paths(paths) == 600
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * sum(map(len, paths))
