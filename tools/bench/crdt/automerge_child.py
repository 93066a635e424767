"""Run with automerge's own environment: seconds to make a document of so many keys. That is all
this binding can do: it cannot give away what it has, so nobody can merge it.
"""

import sys
import time

from automerge import Doc  # type: ignore[import-not-found]

values = {f"key/{number}": f"value {number}" for number in range(int(sys.argv[1]))}
start = time.perf_counter()
document = Doc(values)
print(time.perf_counter() - start)
