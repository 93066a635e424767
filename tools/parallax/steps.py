"""What the cluster has to do, one step after the other, and how long it takes."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import trio

from tools.parallax.cluster import LAYERS, WORKERS, Cluster, ClusterError

CHAT = "/v1/chat/completions"
READY_TIMEOUT = 60.0
"""Seconds: workers tell the scheduler every ten that their executor is there."""
KIB, MIB = 1024, 1024 * 1024
RINGS = ((8 * KIB, 30), (4 * MIB, 10), (32 * MIB, 7))
WORDS = 100
READ = 5
"""Words that are read before the reader hangs up."""
ANY = "any"
POLL = 0.2
"""Seconds between looks at what only an answer tells."""
MAX_AFTER = 50
"""Words after which a stream that nobody reads has ended at the latest."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise ClusterError(what)


async def reach(cluster: Cluster, states: list[str]) -> None:
    """Wait until the scheduler has as many workers, in these states."""
    found: list[str] = []
    with trio.move_on_after(READY_TIMEOUT):
        while True:
            found = [each["status"] for each in await cluster.nodes()]
            if len(found) == len(states) and states in (found, [ANY]):
                return
            await trio.sleep(POLL)
    raise ClusterError(f"the scheduler's workers are {found}, not {states}")


def body(**more: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": "count"}], **more}


async def steps(cluster: Cluster) -> AsyncIterator[dict[str, Any]]:
    """Yield what each has shown; raises ClusterError at the first that goes wrong."""
    began = trio.current_time()
    await cluster.start_scheduler()
    yield {"step": "scheduler", "seconds": trio.current_time() - began}

    async with trio.open_nursery() as nursery:
        for name in WORKERS:
            nursery.start_soon(cluster.start_worker, name)
    building = [(await cluster.wait_logged(each, "Using scheduler addr")).time for each in WORKERS]
    joined = [(await cluster.wait_logged(each, "Join scheduler response")).time for each in WORKERS]
    yield {"step": "both-joined", "seconds": max(joined) - max(building), "limit": 2.0}

    held = [await cluster.wait_event(each, "executor") for each in WORKERS]
    shares = sorted((each["start_layer"], each["end_layer"]) for each in held)
    require(shares[0][1] == shares[1][0] and shares[1][1] == LAYERS, f"layers: {shares}")
    head = WORKERS[[each["start_layer"] for each in held].index(0)]
    await reach(cluster, ["available"] * 2)
    yield {"step": "layers", "shares": shares}

    async for each in chats(cluster, head):
        yield each
    async for each in rings(cluster):
        yield each
    yield await refit(cluster)
    yield await chat_server(cluster)
    yield await leave(cluster)


async def chats(cluster: Cluster, head: str) -> AsyncIterator[dict[str, Any]]:
    answer = await cluster.ask(CHAT, body(max_tokens=3))
    words = json.loads(answer["lines"][0])
    require([each["number"] for each in words] == [0, 1, 2], f"chat: {words}")
    yield {"step": "chat", "seconds": answer["times"][-1]}

    answer = await cluster.ask(CHAT, body(max_tokens=WORDS, stream=True))
    numbers = [json.loads(line)["number"] for line in answer["lines"][:-1]]
    require(numbers == [*range(WORDS)] and answer["lines"][-1] == "[DONE]", "stream: words lost")
    yield {"step": "stream", "first_s": answer["times"][0], "seconds": answer["times"][-1]}

    await cluster.ask(CHAT, body(max_tokens=100 * WORDS, stream=True), words=READ)
    stopped = await cluster.wait_event(head, "stopped")
    require(stopped["after"] <= MAX_AFTER, f"the server stopped after {stopped['after']} words")
    yield {"step": "cancel", "read": READ, "stopped_after": stopped["after"]}

    (other,) = set(WORKERS) - {head}
    aborted = await cluster.wait_event(other, "aborted")
    require(len(aborted["rids"]) == 1, f"aborted: {aborted}")
    yield {"step": "abort"}


async def rings(cluster: Cluster) -> AsyncIterator[dict[str, Any]]:
    """Two `rpc_pp_forward`: from the head's executor to the other's, and back."""
    for size, rounds in RINGS:
        answer = await cluster.ask(CHAT, body(max_tokens=rounds, stream=True, ring_bytes=size))
        words = [json.loads(line) for line in answer["lines"][:-1]]
        require(len(words) == rounds and all(each["is_same"] for each in words), "ring: changed")
        seconds = [each["seconds"] for each in words[1:]]
        found = {"step": f"ring-{size // KIB}KiB", "p50_s": statistics.median(seconds)}
        calls = [
            float(logged.text.split("cost time: ")[1].split(" ms")[0]) / 1000
            for name in WORKERS
            for logged in cluster.logged(name)
            if f"total size: {size / MIB:.3f} MB" in logged.text
        ]
        if calls:  # what Parallax itself logs of each call
            found["call_p50_s"] = statistics.median(calls)
        yield found | ({"max_s": max(seconds), "limit": 0.3} if size == 32 * MIB else {})


async def refit(cluster: Cluster) -> dict[str, Any]:
    """New weights from a trainer: each worker gets the blocks of its layers."""
    await cluster.start_trainer()
    published = await cluster.wait_event("trainer", "published")
    refit = {"time_stamp": time.time(), "index_map": published["index"], "version": 7}
    await cluster.ask("/weight/refit", refit)
    got: dict[str, int] = {}
    for name in WORKERS:
        refitted = await cluster.wait_event(name, "refitted")
        require(refitted["version"] == 7, f"refit: {refitted}")
        got |= refitted["sums"]
    require(got == published["sums"], f"refit: {len(got)} of {LAYERS} layers")
    fetched = [
        float(logged.text.split("get_block=")[1].split("s,")[0])
        for name in WORKERS
        for logged in cluster.logged(name)
        if "get_block=" in logged.text
    ]
    return {"step": "refit", "blocks": len(fetched), "block_p50_s": statistics.median(fetched)}


async def first_chat(cluster: Cluster, port: int) -> dict[str, Any]:
    """Of a server whose HTTP comes a little later than what it has logged."""
    end = trio.current_time() + READY_TIMEOUT
    while True:
        try:
            return await cluster.ask(CHAT, body(max_tokens=WORDS, stream=True), port=port)
        except ClusterError:
            if trio.current_time() > end:
                raise
            await trio.sleep(POLL)


async def chat_server(cluster: Cluster) -> dict[str, Any]:
    port = await cluster.start_chat()
    answer = await first_chat(cluster, port)
    numbers = [json.loads(line)["number"] for line in answer["lines"][:-1]]
    require(numbers == [*range(WORDS)], f"chat server: {numbers}")
    answer = await cluster.ask("/cluster/status", port=port, words=2)
    require(json.loads(answer["lines"][1])["data"]["status"] == "available", f"status: {answer}")
    return {"step": "chat-server", "seconds": answer["times"][-1]}


async def leave(cluster: Cluster) -> dict[str, Any]:
    """Ctrl-C at the P2P server of a worker: it tells the scheduler, which has one node less."""
    began = trio.current_time()
    await cluster.interrupt(WORKERS[1])
    await reach(cluster, [ANY])
    return {"step": "leave", "seconds": trio.current_time() - began}
