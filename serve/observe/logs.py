"""Logging of the server and the workers: one line for each event, with the id of the call it belongs to."""

import contextvars
import logging
import sys
import time
from typing import Any

from ingest.source.redaction import escape_unprintable

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")


class LineFormatter(logging.Formatter):
    """Writes an event as one line, whatever callers and media put into it, and the lines of a traceback behind a tab.

    So nobody can forge a line, or make one look like another.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape_unprintable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        # Not splitlines(): it also splits at separators that are escaped.
        return "\n".join("\t" + escape_unprintable(line) for line in super().formatException(ei).split("\n"))


def log_to_stderr() -> None:
    """Send every log record of this process to standard error, in logfmt after the time (UTC) and the level."""
    logging.basicConfig(handlers=[stderr_handler()], level=logging.INFO, force=True)
    for library in ("faiss.loader", "httpx", "httpx2", "sentence_transformers"):  # log their own progress
        logging.getLogger(library).setLevel(logging.WARNING)
    # kafka-python logs three errors for each attempt to reach a broker that is away; our callers log that once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def stderr_handler() -> logging.Handler:
    """Return the handler that writes log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    formatter = LineFormatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s request_id=%(request_id)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    return handler


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True
