"""The `lattica` command, also as `python -m lattica`."""

from __future__ import annotations

import signal


def main() -> None:
    """Entry point; exits the process.

    Until there is something that Ctrl-C can end in good order
    (:func:`lattica.cli.shared.common.run`), it ends the process by the signal itself: an exception
    in the middle of an import would be a traceback, and not always arrive.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lattica.cli import main as run

    run()


if __name__ == "__main__":
    main()
