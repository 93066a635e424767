"""Settings of the endpoint for metrics and health."""

from __future__ import annotations

from dataclasses import dataclass

from lattica.nat.base.checks import FieldError, require_texts, require_types


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where a relay and a node serve `/metrics`, `/healthz` and `/readyz`, over plain HTTP."""

    listen: tuple[str, ...] = ()
    """`HOST:PORT`, such as `127.0.0.1:9464` or `[::1]:9464`; the host is an IP address. Empty:
    nowhere. What is told names no peer."""
    token: str = ""
    """Whoever asks for `/metrics` must have it as a bearer token; as it is, or `env:NAME`,
    `file:PATH`, `command:PROGRAM ARGUMENT…`. Empty: nobody needs one."""

    def __post_init__(self) -> None:
        require_types(self)
        require_texts("listen", self.listen)
        for text in self.listen:
            try:
                split_endpoint(text)
            except ValueError:
                raise FieldError("listen", "HOST:PORT like 127.0.0.1:9464", text) from None


def split_endpoint(text: str) -> tuple[str, int]:
    """The IP address and port of `HOST:PORT`. Raises ValueError."""
    import ipaddress

    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(text)
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    return str(ipaddress.IPv4Address(host)), int(port)
