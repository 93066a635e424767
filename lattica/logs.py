"""Log lines: structured, one per record, as `key=value` text or as JSON.

Modules log through the standard library (`logging.getLogger(__name__)`) and give what a person
or a program may want to filter by as `extra={"peer": …}`; both forms show it. Loggers of other
packages are heard from WARNING on, ours from the configured level on. py-libp2p, whose lines
say nothing a person can act on (our swarm logs the causes), is heard at level debug only.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from lattica.line_writer import LineWriter
from lattica.nat.base.printable import json_text, printable

LEVELS = ("debug", "info", "warning", "error")

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}


def _value(value: object) -> str:
    text = str(value)
    if not text.isprintable():
        return json_text(text)
    if text and not any(c in ' "=' for c in text):
        return text
    return json.dumps(text, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`TIME LEVEL logger: message key=value …`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.name}: {printable(record.getMessage())}"
        line += "".join(f" {key}={_value(value)}" for key, value in _fields(record).items())
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n  {printable(part)}" for part in trace.splitlines())
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, extra fields, `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            **_fields(record),
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json_text(entry)


class _DescriptorHandler(logging.Handler):
    """Writes to a descriptor whose reader may stall, which must not stop the program.

    Lines that nobody reads, or for which the disk has no room, are dropped after a while; how many
    is logged in their place.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        super().__init__()
        self._writer = LineWriter(descriptor, self._tell_lost, encoding)

    def _tell_lost(self, count: int) -> str:
        text = "%s log lines were dropped here: nobody read them, or the disk was full"
        return self.format(
            logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (count,), None)
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except OSError:
            pass  # closed: there is nobody to tell
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._writer.close()
        super().close()


def _handler(to: TextIO | None) -> logging.Handler:
    if to is None:
        try:
            return _DescriptorHandler(sys.stderr.fileno(), sys.stderr.encoding)
        except OSError:
            pass  # standard error was replaced by something in memory
    return logging.StreamHandler(to if to is not None else sys.stderr)


def setup_logging(level: str = "info", *, as_json: bool = False, to: TextIO | None = None) -> None:
    """Send log lines to `to` (standard error by default), replacing earlier handlers.

    For programs (the command line does it); a library must leave this to its user. `level`
    is one of :data:`LEVELS`, in small letters or capitals. Logging to standard error never waits
    for its reader: lines that nobody reads are dropped and counted
    (:class:`~lattica.line_writer.LineWriter`).
    """
    handler = _handler(to)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    if level.lower() != "debug":
        handler.addFilter(lambda record: record.name.partition(".")[0] != "libp2p")
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # When py-libp2p 0.8.1 is imported it cuts its logger off from the root one and takes its
    # handlers away (libp2p/utils/logging.py:114), so that its lines go to the handler of last
    # resort, bare.
    logging.lastResort = handler
    set_level(level)


def set_level(level: str) -> None:
    """What our own loggers say from now on; one of :data:`LEVELS`."""
    logging.getLogger("lattica").setLevel(level.upper())
