"""Asks Parallax's HTTP API, and says what it answers. Runs where its ports are.

Arguments: the URL, the JSON body ("" for GET), and after how many words of a stream it hangs up.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request

url, body, words = sys.argv[1], sys.argv[2], int(sys.argv[3])
request = urllib.request.Request(url, body.encode() or None, {"Content-Type": "application/json"})
began = time.monotonic()
lines, times = [], []
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    answer = opener.open(request, timeout=120)
except urllib.error.HTTPError as error:
    sys.exit(f"{error}: {error.read().decode()}")
with answer:
    for line in answer:
        if line.strip():
            lines.append(line.decode().strip().removeprefix("data: "))
            times.append(time.monotonic() - began)
        if words and len(lines) == words:
            break
print(json.dumps({"lines": lines, "times": times}))
