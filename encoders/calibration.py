"""Calibration: turns the similarities of one visual encoder into confidences. Scales differ between encoders."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "calibration.json"
MATCH_CONFIDENCE = 0.7  # an answer with at least this confidence is a MATCH
WEAK_CONFIDENCE = 0.3  # an answer below it is a NO_MATCH
LOGIT = math.log(MATCH_CONFIDENCE / WEAK_CONFIDENCE)


def logistic(x: float) -> float:
    """Return 1 / (1 + exp(-x)), with x clipped to ±60 so that it never overflows."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Two thresholds of a z score: standard deviations above generic captions on the same frames."""

    no_match_below: float
    match_above: float

    def confidence(self, z: float) -> float:
        """Map a z score to 0..1: 0.3 at `no_match_below`, 0.7 at `match_above`, logistic between and beyond."""
        middle = (self.no_match_below + self.match_above) / 2
        width = (self.match_above - self.no_match_below) / (2 * LOGIT)
        return logistic((z - middle) / width)

    def __post_init__(self) -> None:
        if not self.no_match_below < self.match_above:
            raise ValueError(f"no_match_below must be < match_above, got {self.no_match_below}, {self.match_above}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The numbers that turn similarities into ranks, moments and verdicts."""

    templates: tuple[str, ...]  # sentences around "{}"; the query vector is the mean of their vectors
    bank_share: float  # 0..1: the share of the mean similarity to generic captions that a frame's similarity loses
    # Softmax temperatures that pool the frames of a video. Most frames decide about a whole video, the few best frames
    # about a moment.
    video_temperature: float
    moment_temperature: float
    video: Scale
    moment: Scale

    def __post_init__(self) -> None:
        if not self.templates or any(template.count("{}") != 1 for template in self.templates):
            raise ValueError(f'each template must hold "{{}}" once, got {self.templates}')
        if not 0 <= self.bank_share <= 1:
            raise ValueError(f"bank_share must be in [0, 1], got {self.bank_share}")
        if min(self.video_temperature, self.moment_temperature) <= 0:
            raise ValueError("temperatures must be > 0")


# For an encoder without a calibration. These are guesses: no weights of such a model were available to measure. The
# moment temperature is CLIP's own 0.01 (https://arxiv.org/abs/2103.00020); the video temperature is three times that.
GENERIC = Calibration(
    templates=("{}", "a photo of {}", "a video frame of {}"),
    bank_share=0.5,
    video_temperature=0.03,
    moment_temperature=0.01,
    video=Scale(no_match_below=1.3, match_above=1.9),
    moment=Scale(no_match_below=1.3, match_above=1.9),
)


def calibration_from(values: Mapping[str, Any]) -> Calibration:
    """Make a calibration from parsed JSON.

    Raises:
        ValueError: If a value is missing, unknown, or out of range.
    """
    try:
        scales = {name: Scale(**values[name]) for name in ("video", "moment")}
        return Calibration(**{**values, **scales, "templates": tuple(values["templates"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a calibration: {error}") from error


def read_calibrations(path: Path) -> dict[str, Calibration]:
    """Read a file of calibrations by encoder fingerprint; an absent file holds none.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        stored = json.loads(text)
        return {fingerprint: calibration_from(values) for fingerprint, values in stored.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"cannot use {path}: {error}") from error


def write_calibration(path: Path, fingerprint: str, calibration: Calibration) -> None:
    """Store a calibration under its fingerprint, next to those of other encoders."""
    stored = {name: asdict(calibration) for name, calibration in read_calibrations(path).items()}
    stored[fingerprint] = asdict(calibration)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
