"""TextReader: finds and reads the lines of text in one picture, with RapidOCR's detector and recogniser.

What stands in a picture is untrusted: a line is data for search, never an instruction.
"""

import importlib.util
import threading
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.config import TextConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.values import Box, ReadLine

# Longer side of the pictures: at 480 a slide loses most of its lines, at 960 a picture takes half as long again.
READING_PX = 640
MIN_CONFIDENCE = 0.8  # of the recogniser; below it, most lines are textures taken for letters
MAX_LINE_COUNT = 100  # of one picture; a page of print has some 60
HALVED_PX = 480  # longer side from which a picture is first looked at at half its size: smaller ones lose their text
MIN_SIDE_PX = 16  # of a picture: a lower one shows no letters, and the networks take none
THREAD_COUNT = 1  # cores that read one picture: with two, each spins while it waits, and both take twice the time
MAX_LINE_CHARS = 300  # of one line; a line of a slide has some 100
DETECTOR, RECOGNISER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"  # both in RapidOCR's package


class TextReader:
    """Reads text in pictures, one at a time. Any number of threads may ask."""

    def __init__(self, models: Path) -> None:
        """Load both networks from a folder; see load_reader()."""
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf
        from rapidocr import RapidOCR  # imports OpenCV

        paths = {name: models / name for name in (DETECTOR, RECOGNISER)}
        for path in paths.values():
            if not path.is_file():  # RapidOCR would fetch it from the network
                raise WeightsNotFound("rapidocr", f"{path} is missing: install rapidocr again")
        engine = "EngineConfig.onnxruntime"
        self._lock = threading.Lock()
        try:
            self._engine = RapidOCR(
                params={
                    "Global.log_level": "error",
                    "Global.use_cls": False,  # text upside down is rare, and the network for it takes as long again
                    "Global.text_score": MIN_CONFIDENCE,
                    # RapidOCR's default enlarges the shorter side to 736 pixels: four times the time, and no more lines
                    "Det.limit_type": "max",
                    "Det.limit_side_len": READING_PX,
                    "Det.model_path": str(paths[DETECTOR]),
                    "Rec.model_path": str(paths[RECOGNISER]),
                    f"{engine}.intra_op_num_threads": THREAD_COUNT,
                    f"{engine}.inter_op_num_threads": 1,
                }
            )
            self.read(np.zeros((32, 32, 3), np.uint8))  # loads the detector
        except (Fail, InvalidGraph, InvalidProtobuf) as error:
            raise WeightsInvalid(str(models), str(error).partition("\n")[0]) from error

    def read(self, pixels: NDArray[np.uint8]) -> list[ReadLine]:
        """Return the lines of text in a picture, from the top, each read with MIN_CONFIDENCE or more.

        The detector looks at a large picture at half its size first: a quarter of the time. Most pictures show
        nothing like text, and are done with that.

        Args:
            pixels: uint8 (H, W, 3), RGB, at most READING_PX wide and high.
        """
        from rapidocr.ch_ppocr_det import TextDetOutput
        from rapidocr.utils.output import RapidOCROutput

        height, width = pixels.shape[:2]
        if max(height, width) > READING_PX:
            raise ValueError(f"pixels must be at most {READING_PX} wide and high, got {width}x{height}")
        if min(height, width) < MIN_SIDE_PX:
            return []
        with self._lock:
            if max(height, width) >= HALVED_PX:
                half = np.asarray(Image.fromarray(pixels).reduce(2))
                detected = self._engine(np.ascontiguousarray(half[..., ::-1]), use_rec=False)
                if not isinstance(detected, TextDetOutput) or detected.boxes is None:
                    return []
            found = self._engine(np.ascontiguousarray(pixels[..., ::-1]), use_rec=True)
        assert isinstance(found, RapidOCROutput)  # the others are of parts of the work
        if found.boxes is None or found.txts is None or found.scores is None:
            return []
        lines = []
        for corners, text, confidence in zip(found.boxes, found.txts, found.scores, strict=True):
            clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_LINE_CHARS]
            if not any(c.isalnum() for c in clean) or not confidence >= MIN_CONFIDENCE:
                continue
            left, top = np.clip(corners.min(axis=0) / (width, height), 0, 1)
            right, bottom = np.clip(corners.max(axis=0) / (width, height), 0, 1)
            box = Box(left=float(left), top=float(top), right=float(right), bottom=float(bottom))
            lines.append(ReadLine(text=clean, box=box, confidence=min(1.0, float(confidence))))
        return lines[:MAX_LINE_COUNT]


@cache  # one of each network in a process
def load_reader(config: TextConfig) -> TextReader | None:
    """Load the reader that the settings name; None: they name "none".

    Raises:
        WeightsNotFound: If RapidOCR, or a file of its package, is not there.
        WeightsInvalid: If its weights are damaged.
    """
    if config.model == "none":
        return None
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise WeightsNotFound("rapidocr", "pip install 'kinodex[text]', or set text.model = none")
    return TextReader(Path(spec.origin).parent / "models")
