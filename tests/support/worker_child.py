"""The command with the tests' exact encoders, a process of its own: worker_child.py worker --kafka SERVERS.

Encoding one batch takes $TEST_SLOW_SECONDS.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from serve.cli.main import main
from support import fakes

SLOW_SECONDS = float(os.environ.get("TEST_SLOW_SECONDS", "0"))


class SlowEncoder(fakes.ColourEncoder):
    """An encoder that takes SLOW_SECONDS for a batch."""

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(SLOW_SECONDS)
        return super().encode_frames(pixels)


if __name__ == "__main__":
    fakes.use_fakes(pytest.MonkeyPatch())
    fakes.ColourEncoder = SlowEncoder  # type: ignore[misc]
    main()
