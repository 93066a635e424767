"""The lab's side of the guardian: namespaces and processes that cannot outlive the lab."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tools.netlab.errors import LabError, NoPrivilegesError
from tools.netlab.lab import guardian

HELP = """\
the network lab needs to make network namespaces, and may not here ({reason}).
Either run it as root:
    sudo .venv/bin/python -m tools.netlab …
or without root in a user namespace of its own:
    unshare -rn .venv/bin/python -m tools.netlab …
Where that says "Operation not permitted" the system forbids user namespaces; root can allow them:
    sysctl -w kernel.unprivileged_userns_clone=1            (Debian)
    sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu 24.04)
In a container, start it with --privileged."""

GONE = "the lab's guardian has ended"


class Namespace:
    """A network namespace: a file descriptor that keeps it alive while it is open."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def path(self) -> str:
        """Where other processes find it, while the lab lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def close(self) -> None:
        """Let go of it. The kernel removes it when no process is in it and nobody holds it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Process:
    """A process in the lab. It is ended by its own handle, never by number or name."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self.pid = _pid_of(pidfd)
        """Its number as seen from outside the lab."""
        self.status: int | None = None
        """Exit code, negative for the signal that ended it; None while it runs."""
        self._ended = trio.Event()

    def send_signal(self, number: int) -> None:
        """Does nothing once it has ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int:
        """Its exit status, when it has one."""
        await self._ended.wait()
        assert self.status is not None
        return self.status

    async def stop(self, grace_s: float = 3.0) -> int:
        """SIGTERM, then SIGKILL after `grace_s`. Shielded from cancellation, bounded by it."""
        with trio.CancelScope(shield=True):
            self.send_signal(signal.SIGTERM)
            self.send_signal(signal.SIGCONT)
            with trio.move_on_after(grace_s):
                await self.wait()
            self.send_signal(signal.SIGKILL)
            await self._ended.wait()
        assert self.status is not None
        return self.status

    def _set_status(self, status: int) -> None:
        self.status = status
        os.close(self._pidfd)
        self._ended.set()


class Guardian:
    """A lab's guardian. Made by :func:`start_guardian`.

    Its methods raise :class:`LabError` when the guardian has gone.
    """

    def __init__(self, control: trio.socket.SocketType, pid: int) -> None:
        self._control = control
        self.pid = pid
        self._next_id = 1
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, Process | Namespace | LabError] = {}
        self._processes: dict[int, Process] = {}
        self._gone = False

    @property
    def has_gone(self) -> bool:
        return self._gone

    async def namespace(self) -> Namespace:
        """A new network namespace, with nothing in it but a loopback device that is down."""
        made = await self._ask({"do": "namespace"}, [])
        assert isinstance(made, Namespace)
        return made

    async def start(
        self,
        namespace: Namespace,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> Process:
        """Start a program in a namespace.

        The descriptors are copied: the caller closes its own. Raises :class:`LabError` if it
        cannot be executed.
        """
        if not argv:
            raise LabError("no program to start: its arguments are empty")
        request = {"do": "start", "argv": list(argv), "env": dict(env), "cwd": str(cwd)}
        started = await self._ask(request, [namespace.fd, stdin, stdout, stderr])
        assert isinstance(started, Process)
        return started

    async def _ask(self, request: dict[str, Any], fds: list[int]) -> Process | Namespace:
        if self._gone:
            raise LabError(GONE)
        id_ = request["id"] = self._next_id
        self._next_id += 1
        message = json.dumps(request).encode()
        if len(message) > guardian.MAX_MESSAGE:
            raise LabError(f"arguments and environment are too large: {request.get('argv')}")
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(_packed_fd, fds)))
        answered = self._waiting[id_] = trio.Event()
        try:
            await self._control.sendmsg([message], [rights] if fds else [])
            # Shielded: what is made must not be lost. The guardian answers at once, or has gone.
            with trio.CancelScope(shield=True):
                await answered.wait()
        except OSError as error:
            raise LabError(f"{GONE}: {error}") from None
        finally:
            del self._waiting[id_]
        answer = self._answers.pop(id_)
        if isinstance(answer, LabError):
            raise answer
        return answer

    async def _receive(self) -> None:
        """Runs until the guardian closes its end, which leaving makes it do.

        Not before: who is cancelled still waits for the guardian's answer.
        """
        with trio.CancelScope(shield=True):
            await self._receive_all()
        self._gone = True
        for id_ in self._waiting.keys() - self._answers.keys():
            self._answer(id_, LabError(GONE))
        for process in self._processes.values():
            process._set_status(-signal.SIGKILL)
        self._processes.clear()

    async def _receive_all(self) -> None:
        while True:
            try:
                message, fd = await _receive_message(self._control)
            except EOFError:
                return
            if "exit" in message:
                self._processes.pop(message["exit"])._set_status(message["status"])
                continue
            id_ = message["id"]
            if "error" in message:
                self._answer(id_, LabError(message["error"]))
            elif message["made"] == "namespace":
                self._answer(id_, Namespace(fd))
            else:
                # Made here and not by who asked: the news of its end may be the next message.
                process = self._processes[id_] = Process(fd)
                self._answer(id_, process)

    def _answer(self, id_: int, answer: Process | Namespace | LabError) -> None:
        self._answers[id_] = answer
        self._waiting[id_].set()


async def _receive_message(control: trio.socket.SocketType) -> tuple[dict[str, Any], int]:
    """A message and the descriptor that came with it (or -1). Raises EOFError."""
    try:
        data, ancillary, _, _ = await control.recvmsg(
            guardian.MAX_MESSAGE, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        raise EOFError from None
    if not data:
        raise EOFError
    fd = int.from_bytes(ancillary[0][2][:4], sys.byteorder) if ancillary else -1
    return json.loads(data), fd


@asynccontextmanager
async def start_guardian(lab: str, folder: Path) -> AsyncIterator[Guardian]:
    """A guardian for the lab named `lab`; it removes `folder` in the end.

    Leaving kills all processes and waits until they and the guardian have ended. Raises
    :class:`NoPrivilegesError`.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        script = Path(guardian.__file__)
        argv = [sys.executable, "-I", "-S", str(script), str(theirs.fileno()), lab, str(folder)]
        # In a session of its own: Ctrl-C is for the lab, which then ends its guardian.
        process = await trio.lowlevel.open_process(
            argv, pass_fds=(theirs.fileno(),), start_new_session=True, stdin=subprocess.DEVNULL
        )
        theirs.close()
        control = trio.socket.from_stdlib_socket(ours)
        try:
            await _greeting(control)
            keeper = Guardian(control, process.pid)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper._receive)
                try:
                    yield keeper
                finally:
                    # Init reads this as the end, and its own end of the socket goes with it.
                    with contextlib.suppress(OSError):
                        control.shutdown(socket.SHUT_WR)
        finally:
            control.close()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _greeting(control: trio.socket.SocketType) -> None:
    try:
        message, _ = await _receive_message(control)
    except EOFError:
        raise LabError("the lab's guardian did not start") from None
    if "failed" in message:
        raise NoPrivilegesError(HELP.format(reason=message["failed"]))


def _packed_fd(fd: int) -> bytes:
    return fd.to_bytes(4, sys.byteorder)


def _pid_of(pidfd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1
