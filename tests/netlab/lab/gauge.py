"""Measures a link, run as a program in the namespaces at its ends; prints JSON.

    gauge.py receive IP PORT COUNT     -> "ready", then [[number, seconds on the way, arrival], …]
    gauge.py send IP PORT COUNT BYTES PACKETS_PER_SECOND BURST
    gauge.py sink IP PORT SECONDS WARM_UP -> "ready", then payload bytes per second over TCP, as
                                             the median of stretches of 0.1 seconds
    gauge.py pour IP PORT SECONDS
    gauge.py echo IP PORT              -> "ready", then answers datagrams with themselves

A datagram has its number and the time at which it was sent; the kernel stamps its arrival. Both
ends share a clock, so that one way can be measured, and no waiting of the receiver counts. With
BURST > 1 so many leave in one call (UDP_SEGMENT), for rates that Python could not send at.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import struct
import sys
import time

STAMP = struct.Struct("!IQ")
SO_TIMESTAMPNS = 35
UDP_SEGMENT = 103
SILENCE_S = 4.0
STRETCH_S = 0.1


def _udp(ip: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)


def _ready() -> None:
    print(json.dumps("ready"), flush=True)


def receive(ip: str, port: int, count: int) -> None:
    with _udp(ip) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((ip, port))
        sock.settimeout(120)
        _ready()
        arrivals: list[tuple[int, float, float]] = []
        while len(arrivals) < count:
            try:
                data, extra, _, _ = sock.recvmsg(2048, 64)
            except TimeoutError:
                break
            sock.settimeout(SILENCE_S)
            seconds, nanoseconds = struct.unpack("@qq", extra[0][2])
            arrived = seconds * 10**9 + nanoseconds
            number, sent = STAMP.unpack_from(data)
            arrivals.append((number, (arrived - sent) / 1e9, arrived / 1e9))
    print(json.dumps(arrivals))


def send(ip: str, port: int, count: int, size: int, pace: float, burst: int) -> None:
    filler = bytes(size - STAMP.size)
    with _udp(ip) as sock:
        sock.connect((ip, port))
        if burst > 1:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        started = time.monotonic()
        for first in range(0, count, burst):
            pause = started + first / pace - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            now = time.time_ns()
            numbers = range(first, min(first + burst, count))
            sock.send(b"".join(STAMP.pack(number, now) + filler for number in numbers))


def sink(ip: str, port: int, seconds: float, warm_up: float) -> None:
    with socket.create_server((ip, port)) as listener:
        _ready()
        connection, _ = listener.accept()
        buffer = bytearray(1 << 20)
        with connection:
            connection.recv(1)
            started = time.monotonic() + warm_up
            while time.monotonic() < started:
                connection.recv_into(buffer)
            stretches = []
            end = time.monotonic() + seconds
            while (started := time.monotonic()) < end:
                total = 0
                while (now := time.monotonic()) < started + STRETCH_S:
                    total += connection.recv_into(buffer)
                stretches.append(total / (now - started))
    print(json.dumps(statistics.median(stretches)))


def pour(ip: str, port: int, seconds: float) -> None:
    with socket.create_connection((ip, port)) as sock:
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                sock.sendall(bytes(1 << 18))
        except (BrokenPipeError, ConnectionResetError):
            return  # the other side has seen enough


def echo(ip: str, port: int) -> None:
    with _udp(ip) as sock:
        sock.bind((ip, port))
        _ready()
        while True:
            sock.sendto(*sock.recvfrom(65535))


def main() -> None:
    with contextlib.suppress(OSError):
        os.nice(-10)  # other work on the machine is not to be measured
    mode, ip, port, *rest = sys.argv[1:]
    numbers = [float(value) for value in rest]
    if mode == "receive":
        receive(ip, int(port), int(numbers[0]))
    elif mode == "send":
        send(ip, int(port), int(numbers[0]), int(numbers[1]), numbers[2], int(numbers[3]))
    elif mode == "sink":
        sink(ip, int(port), numbers[0], numbers[1])
    elif mode == "pour":
        pour(ip, int(port), numbers[0])
    else:
        echo(ip, int(port))


if __name__ == "__main__":
    main()
