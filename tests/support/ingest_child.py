"""The ingest worker with the tests' exact encoders, a process of its own: ingest_child.py --data DIR.

Environment: $TEST_IDLE_EXIT_SECONDS is the time without a job until it ends. A picture that is all $TEST_FATAL_COLOUR
kills it, as a bug in a library would. Encoding a batch takes $TEST_SLOW_SECONDS, and first makes $TEST_ENCODING_FILE.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from serve.indexing import job_worker
from support import fakes
from support.waiting import HANG_SECONDS

SLOW_SECONDS = float(os.environ.get("TEST_SLOW_SECONDS", "0"))
ENCODING_FILE = os.environ.get("TEST_ENCODING_FILE")
FATAL_COLOUR = os.environ.get("TEST_FATAL_COLOUR")


class PerilousEncoder(fakes.ColourEncoder):
    """An encoder that is slow and kills the process at one colour."""

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if ENCODING_FILE is not None:
            Path(ENCODING_FILE).touch()
        time.sleep(SLOW_SECONDS)
        if FATAL_COLOUR is not None:
            looked_for = np.array(fakes.COLOURS[FATAL_COLOUR]) * 255
            if (np.abs(pixels.mean(axis=(1, 2)) - looked_for).max(axis=1) < 20).any():
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_frames(pixels)


if __name__ == "__main__":
    fakes.use_fakes(pytest.MonkeyPatch())
    fakes.ColourEncoder = PerilousEncoder  # type: ignore[misc]
    job_worker.IDLE_EXIT_SECONDS = float(os.environ.get("TEST_IDLE_EXIT_SECONDS", "60"))
    job_worker.RELEASE_SECONDS = 0.3
    job_worker.BUSY_SECONDS = 0.2
    job_worker.STOP_SECONDS = HANG_SECONDS
    sys.exit(job_worker.main())
