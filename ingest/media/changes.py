"""ChangeDetector: whether a picture differs from the last one that differed, so that still pictures are read once."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Pixels of the thumbnail's grey that are compared together: a line of text of 2 % of the height fills half a block.
BLOCK_PX = 8
# Mean difference of a block, of 255, from which it has changed: the noise of codecs stays below 5, and a small line of
# text makes 15.
MIN_DIFFERENCE = 10.0


class ChangeDetector:
    """Compares the thumbnails of one video, each with the last one that differed, so that slow fades count, too."""

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None  # (H / 8, 8, W / 8, 8); None: before the first

    def notice(self, thumbnail: Image.Image) -> bool:
        """Whether a thumbnail differs; the next ones are then compared with it."""
        blocks = _blocks_of(np.asarray(thumbnail.convert("L"), np.float32))
        last = self._last
        if last is not None and last.shape == blocks.shape:
            differences = np.abs(blocks - last).mean(axis=(1, 3))
            if not (differences > MIN_DIFFERENCE).any():
                return False
        self._last = blocks
        return True


def _blocks_of(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (H / B, B, W / B, B); the edge that fills no block is repeated into it."""
    height, width = grey.shape
    padded = np.pad(grey, ((0, -height % BLOCK_PX), (0, -width % BLOCK_PX)), mode="edge")
    return padded.reshape(padded.shape[0] // BLOCK_PX, BLOCK_PX, padded.shape[1] // BLOCK_PX, BLOCK_PX)
