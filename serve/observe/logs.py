"""Logging of the server and the workers: one line for each event, with the id of the call it belongs to."""

import contextvars
import logging
import sys
import time

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")


def log_to_stderr() -> None:
    """Send every log record of this process to standard error, in logfmt after the time (UTC) and the level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s request_id=%(request_id)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for library in ("faiss.loader", "httpx", "httpx2", "sentence_transformers"):  # log their own progress
        logging.getLogger(library).setLevel(logging.WARNING)
    # kafka-python logs three errors for each attempt to reach a broker that is away; our callers log that once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True
