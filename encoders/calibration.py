"""How the similarities of one visual encoder are to be read: scales differ from encoder to encoder."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "calibration.json"
MATCH_CONFIDENCE = 0.7  # from here on an answer is called a MATCH
WEAK_CONFIDENCE = 0.3  # under it, NO_MATCH
LOGIT = math.log(MATCH_CONFIDENCE / WEAK_CONFIDENCE)


def logistic(x: float) -> float:
    """Return 0..1; far from the middle it is flat, and never overflows."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a score must reach, in standard deviations above generic captions on the same frames (a z score)."""

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
    """What turns similarities into ranks, moments and verdicts."""

    templates: tuple[str, ...]  # sentences around "{}" whose vectors, averaged, ask for a thing best
    bank_share: float  # of the mean of generic captions, taken out of a frame's similarity
    # Softmax temperatures that pool a video's frames: a whole video is asked for by what most of it shows, a moment by
    # its few best frames.
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


# For an encoder that was never calibrated. Guessed, not measured: no such model's weights could be had. The moment
# temperature is CLIP's own of 0.01 (https://arxiv.org/abs/2103.00020), the video one three times that.
GENERIC = Calibration(
    templates=("{}", "a photo of {}", "a video frame of {}"),
    bank_share=0.5,
    video_temperature=0.03,
    moment_temperature=0.01,
    video=Scale(no_match_below=1.3, match_above=1.9),
    moment=Scale(no_match_below=1.3, match_above=1.9),
)


def calibration_from(values: Mapping[str, Any]) -> Calibration:
    """Read a calibration of JSON's types.

    Raises:
        ValueError: If a value is missing, unknown, or out of range.
    """
    try:
        scales = {name: Scale(**values[name]) for name in ("video", "moment")}
        return Calibration(**{**values, **scales, "templates": tuple(values["templates"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a calibration: {error}") from error


def read_calibrations(path: Path) -> dict[str, Calibration]:
    """Read a file of calibrations by encoder fingerprint; none where there is no file.

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
    """Store a calibration, beside those of other encoders."""
    stored = {name: asdict(one) for name, one in read_calibrations(path).items()}
    stored[fingerprint] = asdict(calibration)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
