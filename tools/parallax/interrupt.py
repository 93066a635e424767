"""Ctrl-C at the process of this host that listens on a TCP port. Argument: the port."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

LISTEN = "0A"
port = f":{int(sys.argv[1]):04X}"
rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == LISTEN}
for process in Path("/proc").glob("[0-9]*"):
    try:
        held = {os.readlink(each) for each in (process / "fd").iterdir()}
    except OSError:
        continue  # it has just ended
    if held & sockets:
        os.kill(int(process.name), signal.SIGINT)
        break
else:
    sys.exit(f"nobody listens on port {sys.argv[1]}")
