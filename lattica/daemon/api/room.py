"""Whether the system has what gRPC begins with."""

from __future__ import annotations

import mmap
import threading

from lattica.daemon.errors import DaemonError

_THREADS = 8
"""grpcio's own at its start, and the first of ours."""
_MEMORY = 64 << 20
"""Bytes of address space for the library and its first buffers."""


def check_room() -> None:
    """See that there are so many threads and so much address space, all at the same time.

    gRPC's core tries for ten seconds to get a thread, in which nothing else runs, and aborts the
    process then.

    Raises:
        DaemonError: there is not.
    """
    end = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(_THREADS):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            threads.append(thread)
        mmap.mmap(-1, _MEMORY, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, RuntimeError, MemoryError) as error:
        raise DaemonError(
            f"there is no room for it: {str(error) or 'no memory'} (limits on threads and on "
            "address space, `ulimit -u` and `ulimit -v`, TasksMax= of systemd)"
        ) from None
    finally:
        end.set()
        for thread in threads:
            thread.join()
