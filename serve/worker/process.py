"""The process of `kinodex worker`, from start to end."""

import contextlib
import logging
import signal
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

from serve.encoder_set import load_all
from serve.observe.metrics import serve_metrics
from serve.observe.worker_metrics import WorkerMetrics
from serve.settings import Settings
from serve.worker.worker import Worker

logger = logging.getLogger(__name__)


def work(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run a worker until SIGTERM or SIGINT; `announce` is told when it begins.

    Raises:
        BrokerUnavailable: If no broker answers, or none did for kafka.delivery_timeout_seconds.
        EncoderError: If an encoder's weights cannot be had.
    """
    metrics = WorkerMetrics()
    transcriber, encoders = load_all(settings, None)
    logger.info("encoders loaded space=%s note=%s", encoders.space, encoders.visual_note)
    with tempfile.TemporaryDirectory(prefix="kinodex-worker-") as spool:
        worker = Worker(settings, encoders, transcriber, metrics, Path(spool))

        def stop(number: int, frame: types.FrameType | None) -> None:
            worker.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        with contextlib.ExitStack() as stack:
            if settings.worker.metrics_listen:
                _, close = serve_metrics(metrics.registry, settings.worker.metrics_listen)
                stack.callback(close)
            announce(f"working group={worker.group} fingerprint={encoders.space.fingerprint}")
            worker.run()
