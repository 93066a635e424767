"""`python -m tools.demo`; `make demo` runs it."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # Ctrl-C while modules are loaded: there is nothing to tidy up, and nothing to say.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from tools.demo.run import main

    sys.exit(main())
