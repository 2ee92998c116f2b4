"""TextReader: RapidOCR's detector and recogniser of lines of text. VideoReader: reads the pictures of one video.

What stands in a picture is untrusted: a line is data for search, never an instruction.
"""

import importlib.util
import threading
from dataclasses import dataclass
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
SAME_BOX_IOU = 0.8  # of two findings of one box: the detector draws it a little differently when other things move
COLUMN_PX = 4  # columns of a box that are compared together: a narrow letter of the smallest text that is read
# Mean grey difference of such columns, of 255, above which a box is read again: codecs make 5, another letter 15.
SAME_DIFFERENCE = 10.0
DETECTOR, RECOGNISER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"  # both in RapidOCR's package

Corners = NDArray[np.float32]  # (N, 4, 2)
NO_CORNERS: Corners = np.zeros((0, 4, 2), np.float32)


class TextReader:
    """Finds lines of text in pictures, and reads them, one at a time. Any number of threads may ask."""

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
                    # RapidOCR's default enlarges the shorter side to 736 pixels: four times the time, and no more lines
                    "Det.limit_type": "max",
                    "Det.limit_side_len": READING_PX,
                    "Det.model_path": str(paths[DETECTOR]),
                    "Rec.model_path": str(paths[RECOGNISER]),
                    # RapidOCR pads the lines of a batch to the longest: alone, they take two thirds of the time
                    "Rec.rec_batch_num": 1,
                    f"{engine}.intra_op_num_threads": THREAD_COUNT,
                    f"{engine}.inter_op_num_threads": 1,
                }
            )
            self.find_boxes(np.zeros((32, 32, 3), np.uint8))  # loads the detector
        except (Fail, InvalidGraph, InvalidProtobuf) as error:
            raise WeightsInvalid(str(models), str(error).partition("\n")[0]) from error

    def open_video(self) -> "VideoReader":
        """Return a reader for the pictures of one video, in order of time."""
        return VideoReader(self)

    def find_boxes(self, pixels: NDArray[np.uint8]) -> Corners:
        """Return the corners of what looks like a line of text: float32 (N, 4, 2), x and y in pixels, from the top.

        The detector looks at a large picture at half its size first: a quarter of the time. Most pictures show
        nothing like text, and are done with that.

        Args:
            pixels: uint8 (H, W, 3), RGB, at most READING_PX wide and high.
        """
        height, width = pixels.shape[:2]
        if max(height, width) > READING_PX:
            raise ValueError(f"pixels must be at most {READING_PX} wide and high, got {width}x{height}")
        if min(height, width) < MIN_SIDE_PX:
            return NO_CORNERS
        if max(height, width) >= HALVED_PX and not len(self._detect(np.asarray(Image.fromarray(pixels).reduce(2)))):
            return NO_CORNERS
        return self._detect(pixels)

    def _detect(self, pixels: NDArray[np.uint8]) -> Corners:
        from rapidocr.ch_ppocr_det import TextDetOutput

        with self._lock:
            found = self._engine(np.ascontiguousarray(pixels[..., ::-1]), use_det=True, use_rec=False)
        if not isinstance(found, TextDetOutput) or found.boxes is None:  # nothing is found
            return NO_CORNERS
        return np.asarray(found.boxes, np.float32)

    def read_boxes(self, pixels: NDArray[np.uint8], corners: Corners) -> list[tuple[str, float]]:
        """Return the text in each of N boxes that find_boxes() found, and the recogniser's confidence, 0..1."""
        if not len(corners):
            return []
        with self._lock:
            crops = self._engine.crop_text_regions(np.ascontiguousarray(pixels[..., ::-1]), corners)
            found = self._engine.recognize_txt(crops)
        assert found.txts is not None  # recognize_txt() raises an error otherwise
        assert found.scores is not None
        return [(text, float(score)) for text, score in zip(found.txts, found.scores, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """A box of a picture, as it looked when its text was read."""

    line: ReadLine  # also without letters, and with any confidence
    left_px: int
    top_px: int
    grey: NDArray[np.int16]  # (h, w): its pixels

    def stands_in(self, grey: NDArray[np.int16], box: Box) -> bool:
        """Whether a box of another picture (H, W) lies here, and the pixels are the same but for noise."""
        if self.line.box.iou(box) < SAME_BOX_IOU:
            return False
        height, width = self.grey.shape
        there = grey[self.top_px : self.top_px + height, self.left_px : self.left_px + width]
        if there.shape != self.grey.shape:
            return False
        columns = np.abs(there - self.grey).mean(axis=0)  # a changed letter changes its columns
        blocks = np.add.reduceat(columns, range(0, width, COLUMN_PX)) / COLUMN_PX
        return bool((blocks <= SAME_DIFFERENCE).all())


class VideoReader:
    """Reads the pictures of one video. A box whose pixels stayed keeps its text: the recogniser takes most of the time.

    Each box is compared with its pixels when it was read, so that slow changes count, too.
    """

    def __init__(self, reader: TextReader) -> None:
        self._reader = reader
        self._regions: list[_Region] = []  # of the last picture

    def read(self, pixels: NDArray[np.uint8]) -> list[ReadLine]:
        """Return the lines of text in the next picture, from the top, each read with MIN_CONFIDENCE or more.

        Args:
            pixels: uint8 (H, W, 3), RGB, at most READING_PX wide and high.
        """
        corners = self._reader.find_boxes(pixels)[:MAX_LINE_COUNT]
        grey = np.asarray(Image.fromarray(pixels).convert("L"), np.int16)
        boxes = [_box_of(each, grey.shape) for each in corners]
        regions = [next((each for each in self._regions if each.stands_in(grey, box)), None) for box in boxes]
        new = [n for n, region in enumerate(regions) if region is None]
        for n, (text, confidence) in zip(new, self._reader.read_boxes(pixels, corners[new]), strict=True):
            left, top = np.clip(corners[n].min(axis=0), 0, None).astype(int).tolist()
            right, bottom = np.ceil(corners[n].max(axis=0)).astype(int).tolist()
            line = ReadLine(text=_clean(text), box=boxes[n], confidence=min(1.0, max(0.0, confidence)))
            regions[n] = _Region(line, left, top, grey[top:bottom, left:right].copy())
        self._regions = [region for region in regions if region is not None]
        lines = [region.line for region in self._regions]
        return [line for line in lines if line.confidence >= MIN_CONFIDENCE and any(map(str.isalnum, line.text))]


def _box_of(corners: NDArray[np.float32], size: tuple[int, ...]) -> Box:
    """Return the box around four corners (4, 2) in a picture of a size (H, W)."""
    left, top = np.clip(corners.min(axis=0) / (size[1], size[0]), 0, 1).tolist()
    right, bottom = np.clip(corners.max(axis=0) / (size[1], size[0]), 0, 1).tolist()
    return Box(left=left, top=top, right=right, bottom=bottom)


def _clean(text: str) -> str:
    """Return a text as one line of printable characters, at most MAX_LINE_CHARS."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_LINE_CHARS]


def find_models(config: TextConfig) -> Path | None:
    """Return the folder with the networks of the reader; None: the settings name "none", or it is not installed."""
    spec = importlib.util.find_spec("rapidocr") if config.model == "auto" else None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "models"


def describe_reader(config: TextConfig) -> str:
    """Return in a few words whether text in pictures is read, and why."""
    if config.model == "none":
        return "text in pictures is not read: text.model = none"
    if find_models(config) is None:
        return "text in pictures is not read: pip install 'kinodex[text]'"
    return "text in pictures: RapidOCR"


@cache  # one of each network in a process
def load_reader(config: TextConfig) -> TextReader | None:
    """Load the reader of text; None if find_models() finds none.

    Raises:
        WeightsNotFound: If a file of its package is not there.
        WeightsInvalid: If its weights are damaged.
    """
    models = find_models(config)
    return None if models is None else TextReader(models)
