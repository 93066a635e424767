"""A daemon's node from start to end: what it serves, its API and its page."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lattica.daemon.errors import DaemonError
from lattica.daemon.metrics.serving import serve_metrics
from lattica.daemon.node.log_lines import LogLines
from lattica.daemon.node.member import Member
from lattica.nat.base.concurrency.exception_groups import unwrapped
from lattica.nat.base.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from lattica.config import NodeConfig
    from lattica.node import Node

logger = logging.getLogger(__name__)


@asynccontextmanager
async def member_of(node: Node, *, has_key: bool = True) -> AsyncIterator[Member]:
    """Serve what the configuration of a node that runs names, and its API, in this block.

    Args:
        has_key: whether the node has a key that stays. One without has an API only where its socket
            is named: it is not the one that other programs mean.

    Raises:
        ConfigError: a setting cannot be used.
        DaemonError: the socket is named, and the API cannot be served there.
    """
    try:
        async with _member_of(node, has_key) as member:
            yield member
    except BaseExceptionGroup as group:
        raise unwrapped(group) from None


@asynccontextmanager
async def _member_of(node: Node, has_key: bool) -> AsyncIterator[Member]:
    from lattica.facades.facade import Content

    logs = LogLines()
    async with AsyncExitStack() as stack:
        stack.enter_context(logs.attached())
        content = await stack.enter_async_context(Content.opened(node))
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        member = Member(node, nursery, content, logs)
        member.serve(node.config.node)
        await _serve_metrics(member, nursery)
        await _serve_api(stack, member, node.config, has_key)
        if node.config.node.page:
            from lattica.daemon.page.server import serving_page

            host, port = node.config.node.page_at
            token = node.config.node.page_token
            member.page = await stack.enter_async_context(serving_page(member, host, port, token))
            logger.info("the page is at %s", member.page)
        yield member


async def _serve_metrics(member: Member, nursery: trio.Nursery) -> None:
    node = member.node

    def collectors() -> list[Collector]:
        from lattica.daemon.metrics.member import MemberCollector
        from lattica.daemon.metrics.node import SwarmCollector
        from lattica.daemon.metrics.relay import RelayCollector

        found: list[Collector] = [SwarmCollector(node.swarm), MemberCollector(member)]
        if node.traversal.relay_service is not None:
            found.append(RelayCollector(node.traversal.relay_service))
        return found

    def troubles() -> list[str]:
        from lattica.daemon.metrics.member import troubles

        return troubles(member)

    await serve_metrics(node.config.metrics, nursery, collectors, troubles)


async def _serve_api(
    stack: AsyncExitStack, member: Member, config: NodeConfig, has_key: bool
) -> None:
    wanted = config.node
    if not wanted.api or (wanted.socket is None and not has_key):
        return
    path = wanted.socket_in(config.data_dir)
    try:
        from lattica.daemon.api.methods import Methods
        from lattica.daemon.api.server import serving

        await stack.enter_async_context(serving(Methods(member), path))
    except (DaemonError, ConfigError) as error:
        if wanted.socket is not None:
            raise
        logger.warning("without the local API, by which commands use this node: %s", error)
        return
    member.socket = path
    logger.info("the local API listens at %s", path)
