"""The guardian of a lab: makes its namespaces, starts its programs, and dies with it.

    python -I -S guardian.py SOCKET_FD LAB_NAME FOLDER

Two processes. The janitor makes a PID namespace and a mount namespace, starts the init of that
PID namespace, waits for it to end, and removes FOLDER. Init holds the lab's network namespaces
(as file descriptors; they have no names) and is the ancestor of all its programs. Init ends when
the lab closes the socket, in whatever way the lab ends; with the init of a PID namespace the
kernel kills all that is in it, and with the last process and descriptor the network namespaces
go, and with them every interface, TUN device and nftables rule. So nothing can be left behind:
not after SIGKILL of the lab (the socket closes), of the janitor (init dies with its parent) or
of init.

Talk over the socket (SOCK_SEQPACKET, one JSON object a message, file descriptors beside it):

    at the start: {"ready": true}, or {"failed": "…"}
    {"id": 1, "do": "namespace"}         -> {"id": 1, "made": "namespace"} + network namespace
    {"id": 2, "do": "start", "argv": […], "env": {…}, "cwd": "…"}
        + network namespace, stdin, stdout, stderr
                                         -> {"id": 2, "made": "start"} + pidfd
    either may fail                      -> {"id": 2, "error": "…"}
    whenever a program ends              -> {"exit": 2, "status": -9}

This file is run by itself and imports nothing of ours, so that it starts in milliseconds.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import sys
from typing import Any, NoReturn

CLONE_NEWNS = 0x0002_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
MS_PRIVATE_REC = 1 << 18 | 1 << 14
MAX_MESSAGE = 1 << 17
MAX_FDS = 4

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _new_namespace() -> int:
    """A new network namespace, as a file descriptor. This process stays where it is."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(libc.unshare(CLONE_NEWNET), "making a network namespace")
        made = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _check(libc.setns(here, CLONE_NEWNET), "leaving a network namespace")
    finally:
        os.close(here)
    return made


def _exec(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """In the child: becomes the program. Whatever goes wrong is raised."""
    _check(libc.setns(fds[0], CLONE_NEWNET), "entering a network namespace")
    os.setsid()
    # First out of the way of the numbers they shall have, then there.
    high = [os.dup2(fd, 512 + index, inheritable=False) for index, fd in enumerate(fds[1:])]
    for number, fd in enumerate(high):
        os.dup2(fd, number)
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(request["cwd"])
    os.execvpe(request["argv"][0], request["argv"], request["env"])


class Init:
    """PID 1 of the lab's PID namespace."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._programs: dict[int, int] = {}  # pid here -> id of the request

    def run(self) -> None:
        """Serves until the lab closes its end. Children that end are reported."""
        wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        control = self._control.fileno()
        while True:
            ready, _, _ = select.select([control, wake], [], [])
            if wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 512)
                self._reap()
            if control in ready and not self._serve():
                return

    def _serve(self) -> bool:
        fds = array.array("i")
        data, ancillary, _, _ = self._control.recvmsg(
            MAX_MESSAGE, socket.CMSG_SPACE(MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for _, _, payload in ancillary:
            fds.frombytes(payload)
        if not data:
            return False
        request = json.loads(data)
        try:
            if request["do"] == "namespace":
                made = _new_namespace()
            else:
                made = self._start(request, list(fds))
        except Exception as error:  # whatever is wrong with one request: init must go on
            self._send({"id": request["id"], "error": str(error) or repr(error)})
        else:
            self._send({"id": request["id"], "made": request["do"]}, made)
            os.close(made)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _start(self, request: dict[str, Any], fds: list[int]) -> int:
        """Forks and executes; the child's pidfd. Raises OSError, the child's errors too."""
        # Closed by a successful exec, else it tells why there was none.
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                _exec(request, fds)
            except BaseException as error:
                os.write(writing, (str(error) or repr(error)).encode(errors="replace")[:1000])
            finally:
                os._exit(127)
        os.close(writing)
        try:
            failure = os.read(reading, 1000).decode(errors="replace")
        finally:
            os.close(reading)
        if failure:
            os.waitpid(pid, 0)
            raise OSError(f"{request['argv'][0]}: {failure}")
        self._programs[pid] = request["id"]
        return os.pidfd_open(pid)

    def _reap(self) -> None:
        while self._has_children():
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            # Others are orphans of programs that have ended.
            if pid in self._programs:
                code = os.waitstatus_to_exitcode(status)
                self._send({"exit": self._programs.pop(pid), "status": code})

    @staticmethod
    def _has_children() -> bool:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _send(self, message: dict[str, Any], fd: int | None = None) -> None:
        # The lab has gone: run() will notice.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(
                self._control, [json.dumps(message).encode()], [] if fd is None else [fd]
            )


def _be_init(control: socket.socket, lab: str) -> None:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_NAME, f"{lab}-init".encode()[:15])
    # Programs then see their own process numbers. Not possible in some containers; few care.
    libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID_NODEV_NOEXEC, None)
    control.send(json.dumps({"ready": True}).encode())
    Init(control).run()


def main(control_fd: int, lab: str, folder: str) -> int:
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    libc.prctl(PR_SET_NAME, f"{lab}-janitor".encode()[:15])
    try:
        _check(libc.unshare(CLONE_NEWPID | CLONE_NEWNS), "making namespaces")
        _check(libc.mount(None, b"/", None, MS_PRIVATE_REC, None), "making mounts private")
    except OSError as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        return 1
    init = os.fork()
    if init == 0:
        code = 1
        try:
            _be_init(control, lab)
            code = 0
        finally:
            os._exit(code)
    control.close()
    # Stopping the janitor stops the lab.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(init, signal.SIGKILL))
    os.waitpid(init, 0)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
