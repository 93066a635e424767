"""The door over real HTTP, with nodes on loopback behind it."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import trio

from lattica import Node, load_config
from lattica.content import Publisher
from lattica.content.hub.door import serve_door
from lattica.content.hub.publishing import describe_revision
from lattica.content.hub.repository import RevisionRef
from lattica.content.names.service import open_names
from lattica.content.publish.service import service_of
from lattica.content.swarm.messages import Member
from lattica.errors import ListenError
from lattica.nat.base.net.addresses import with_peer

MIB = 1024 * 1024
REF = RevisionRef("org/model", "v1")


def config():
    environment = {"LATTICA_NAT__PORT_MAPPING__ENABLED": "false"}
    return load_config(environment=environment, overrides={"listen": ["/ip4/127.0.0.1/tcp/0"]})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "tree"
    (directory / "sub").mkdir(parents=True)
    (directory / "model.bin").write_bytes(np.random.default_rng(1).bytes(3 * MIB + 11))
    (directory / "sub" / "a b#c.txt").write_bytes(b"text")
    (directory / "empty").touch()
    return directory


@asynccontextmanager
async def published(tree: Path, ref: RevisionRef = REF):
    """Whoever has a repository."""
    async with Node(config()) as node, Publisher(node) as publisher, open_names(node) as names:
        await publisher.publish(tree)
        [publication] = publisher.catalog
        revision = await describe_revision(ref, publication)
        with revision.published(node, names):
            yield Member(node.peer_id, node.addrs), revision


@asynccontextmanager
async def door(publisher: Member, directory: Path, own: Node | None = None):
    """A door of a new node, or of its `own`."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(Node(config())) if own is None else own
        nursery = await stack.enter_async_context(trio.open_nursery())

        async def serve(*, task_status: trio.TaskStatus[str]) -> None:
            await serve_door(node, [publisher], directory, port=0, task_status=task_status)

        url = await nursery.start(serve)
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client
        nursery.cancel_scope.cancel()


async def test_what_clients_ask(tree, tmp_path):
    data = (tree / "model.bin").read_bytes()
    async with published(tree) as (publisher, revision), door(publisher, tmp_path / "d") as client:
        commit = revision.publication.cid.digest.hex()[:40]
        info = (await client.get("/api/models/org/model/revision/v1")).json()
        assert info["sha"] == commit
        assert {s["rfilename"] for s in info["siblings"]} == {
            "model.bin", "sub/a b#c.txt", "empty",
        }  # fmt: skip
        entries = (await client.get(f"/api/models/org/model/tree/{commit}?recursive=true")).json()
        etag = hashlib.sha256(data).hexdigest()
        [entry] = [e for e in entries if e["path"] == "model.bin"]
        assert (entry["size"], entry["lfs"]["oid"]) == (len(data), etag)

        url = f"/org/model/resolve/{commit}/model.bin"
        head = await client.head(url)
        assert head.status_code == 200
        assert head.headers["etag"] == f'"{etag}"'
        assert head.headers["x-repo-commit"] == commit
        assert int(head.headers["content-length"]) == len(data)
        assert (await client.get(url)).content == data
        assert (await client.get("/org/model/resolve/v1/sub/a%20b%23c.txt")).content == b"text"
        assert (await client.get("/org/model/resolve/v1/empty")).content == b""

        some = await client.get(url, headers={"Range": f"bytes={MIB - 1}-{2 * MIB}"})
        assert some.status_code == 206
        assert some.content == data[MIB - 1 : 2 * MIB + 1]
        assert some.headers["content-range"] == f"bytes {MIB - 1}-{2 * MIB}/{len(data)}"
        rest = await client.get(url, headers={"Range": "bytes=-7", "If-Range": f'"{etag}"'})
        assert (rest.status_code, rest.content) == (206, data[-7:])
        other = await client.get(url, headers={"Range": "bytes=-7", "If-Range": '"x"'})
        assert (other.status_code, len(other.content)) == (200, len(data))
        beyond = await client.get(url, headers={"Range": f"bytes={len(data)}-"})
        assert beyond.status_code == 416
        assert beyond.headers["content-range"] == f"bytes */{len(data)}"
        same = await client.get(url, headers={"If-None-Match": f'"{etag}"'})
        assert (same.status_code, same.content) == (304, b"")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/models/org/other/revision/v1", 404, "RepoNotFound"),
        ("GET", "/api/models/org/model/revision/v2", 404, "RevisionNotFound"),
        ("HEAD", "/org/model/resolve/v1/none", 404, "EntryNotFound"),
        ("GET", "/api/models/org/model/tree/v1/none", 404, "EntryNotFound"),
        ("GET", "/org/model/resolve/v1/../../etc/passwd", 404, None),
        ("GET", "/org/model/resolve/v1/..%2f..%2fetc/passwd", 404, "EntryNotFound"),
        ("GET", "/api/whoami-v2", 404, None),
        ("POST", "/api/models/org/model/revision/v1", 405, None),
    ],
)
async def test_what_is_not_there(tree, tmp_path, method, path, status, code):
    async with published(tree) as (publisher, _), door(publisher, tmp_path / "d") as client:
        answer = await client.request(method, path, content=b"x" if method == "POST" else None)
        assert answer.status_code == status
        assert answer.headers.get("x-error-code") == code
        # The connection goes on, and the door with it.
        assert (await client.get("/api/models/org/model/revision/v1")).status_code == 200


async def test_a_page_in_a_browser_cannot_read_here(tree, tmp_path):
    async with published(tree) as (publisher, _), door(publisher, tmp_path / "d") as client:
        path = "/api/models/org/model/revision/v1"
        assert (await client.get(path, headers={"Host": "evil.example"})).status_code == 403
        assert (await client.get(path, headers={"Host": "[::1]:80"})).status_code == 200


async def test_without_the_publisher_it_has_what_was_read(tree, tmp_path):
    data, url = (tree / "model.bin").read_bytes(), "/org/model/resolve/v1/model.bin"
    async with published(tree) as (publisher, _), door(publisher, tmp_path / "d") as client:
        assert (await client.get(url)).content == data
    async with door(publisher, tmp_path / "d") as client:
        assert (await client.get(url)).content == data
        answer = await client.get("/org/model/resolve/v1/sub/a%20b%23c.txt")
        assert answer.status_code == 504
        assert (await client.get("/api/models/org/model/revision/v2")).status_code == 504


async def test_a_revision_moves(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("lattica.content.hub.library._FRESH", 0.0)
    url = "/org/model/resolve/v1/new"
    async with Node(config()) as node, Publisher(node) as publisher, open_names(node) as names:
        for text in (None, "x", "y"):
            if text is not None:
                (tree / "new").write_text(text)
            cid = (await publisher.publish(tree)).cid
            publication = publisher.catalog.get(cid)
            assert publication is not None
            revision = await describe_revision(REF, publication)
            member = Member(node.peer_id, node.addrs)
            with revision.published(node, names):
                async with door(member, tmp_path / "d") as client:
                    answer = await client.get(url)
                    assert answer.headers["x-repo-commit"] == cid.digest.hex()[:40]
                    assert (answer.text == text) if text else answer.status_code == 404


async def test_of_the_next_revision_only_what_is_new_is_fetched(tree, tmp_path):
    url = "/org/model/resolve/{}/model.bin"
    data = bytearray((tree / "model.bin").read_bytes())
    async with Node(config()) as node, Publisher(node) as publisher, open_names(node) as names:
        member = Member(node.peer_id, node.addrs)
        sent = service_of(node).bytes_sent
        async with AsyncExitStack() as stack:
            for text in ("v1", "v2"):
                data[2 * MIB] ^= 1
                (tree / "model.bin").write_bytes(data)
                cid = (await publisher.publish(tree)).cid
                publication = publisher.catalog.get(cid)
                assert publication is not None
                ref = RevisionRef("org/model", text)
                revision = await describe_revision(ref, publication)
                stack.enter_context(revision.published(node, names))
                client = await stack.enter_async_context(door(member, tmp_path / "d"))
                assert (await client.get(url.format(text))).content == bytes(data)
                while not (tmp_path / "d" / "content" / str(cid) / "model.bin").exists():
                    await trio.sleep(0.01)
                [table] = [f.table for f in publication.manifest.files if f.path == "model.bin"]
                changed = table[table.index_at(2 * MIB)].length
                assert sent[cid] == (len(data) if text == "v1" else changed)
                await stack.pop_all().aclose()


async def test_a_node_reads_its_own_repository_where_it_lies(tree, tmp_path):
    data, url = (tree / "model.bin").read_bytes(), "/org/model/resolve/v1/model.bin"
    async with Node(config()) as node, Publisher(node) as publisher, open_names(node) as names:
        await publisher.publish(tree)
        [publication] = publisher.catalog
        revision = await describe_revision(REF, publication)
        # As in its ticket, and by the peer ID alone.
        for number, addrs in enumerate((node.addrs, ())):
            where, member = tmp_path / f"{number}", Member(node.peer_id, addrs)
            with revision.published(node, names):
                async with door(member, where, node) as client:
                    info = await client.get("/api/models/org/model/revision/v1")
                    assert info.json()["sha"] == publication.cid.digest.hex()[:40]
                    assert (await client.get(url)).content == data
                    some = await client.get(url, headers={"Range": f"bytes={MIB - 1}-{2 * MIB}"})
                    assert (some.status_code, some.content) == (206, data[MIB - 1 : 2 * MIB + 1])
                    assert (await client.get("/org/model/resolve/v1/empty")).content == b""
                    for path, code in (
                        ("/org/model/resolve/v1/none", "EntryNotFound"),
                        ("/api/models/org/model/revision/v2", "RevisionNotFound"),
                        ("/api/models/org/other/revision/v1", "RepoNotFound"),
                    ):
                        answer = await client.get(path)
                        assert (answer.status_code, answer.headers["x-error-code"]) == (404, code)
            assert {path.name for path in where.rglob("*")} == {"names.json"}
        assert not service_of(node).bytes_sent


async def test_what_has_changed_here_comes_from_others(tree, tmp_path):
    data, url = (tree / "model.bin").read_bytes(), "/org/model/resolve/v1/model.bin"
    async with (
        published(tree) as (other, revision),
        Node(config()) as node,
        Publisher(node) as publisher,
        open_names(node) as names,
    ):
        mine = tmp_path / "mine" / tree.name
        shutil.copytree(tree, mine)
        await publisher.publish(mine)
        [publication] = publisher.catalog
        assert publication.cid == revision.publication.cid
        changed = bytearray(data)
        changed[2 * MIB] ^= 1
        with (await describe_revision(REF, publication)).published(node, names):
            (mine / "model.bin").write_bytes(changed)
            await node.connect([with_peer(addr, other.peer_id) for addr in other.addrs])
            async with door(Member(node.peer_id, ()), tmp_path / "d", node) as client:
                assert (await client.get(url)).content == data
                assert (await client.get(url)).content == data


async def test_a_port_that_is_taken(tmp_path):
    async with Node(config()) as node:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            port = listener.socket.getsockname()[1]
            with pytest.raises(ListenError, match=str(port)):
                await serve_door(node, [], tmp_path, port=port)
