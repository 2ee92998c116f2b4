"""Calibration: turns the similarities of one visual encoder into confidences. Scales differ between encoders.

A confidence is a frequency: of the answers with 0.9, nine in ten are right. `kinodex calibrate` fits it to questions
with known answers (serve.evaluate.confidence).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

FILE = "calibration.json"
MATCH_CONFIDENCE = 0.7  # an answer with at least this confidence is a MATCH
WEAK_CONFIDENCE = 0.3  # an answer below it is a NO_MATCH
LOGIT = math.log(MATCH_CONFIDENCE / WEAK_CONFIDENCE)


def logistic(x: float) -> float:
    """Return 1 / (1 + exp(-x)), with x clipped to ±60 so that it never overflows."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))


def logit(confidence: float) -> float:
    """Return the inverse of logistic(), for a confidence 0..1; at most ±20."""
    confidence = min(max(confidence, 1e-9), 1 - 1e-9)
    return math.log(confidence / (1 - confidence))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Two thresholds of a similarity, for confidences that depend on nothing else."""

    no_match_below: float
    match_above: float

    def confidence(self, similarity: float) -> float:
        """Map a similarity to 0..1: 0.3 at `no_match_below`, 0.7 at `match_above`, logistic between and beyond."""
        middle = (self.no_match_below + self.match_above) / 2
        width = (self.match_above - self.no_match_below) / (2 * LOGIT)
        return logistic((similarity - middle) / width)

    def __post_init__(self) -> None:
        if not self.no_match_below < self.match_above:
            raise ValueError(f"no_match_below must be < match_above, got {self.no_match_below}, {self.match_above}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What speaks for one answer to a text, a moment or a whole video; serve.search.evidence measures it.

    A z score says how many standard deviations a question is nearer to some frames than captions of anything are.
    """

    own: float  # z score of the moment's own frames; of a whole video: that of its best moment
    video: float  # z score of the best frames of the video
    # By how much `video` is above that of the best other video; 0 without another. A copy is no other video.
    margin: float
    # By how much the score by which answers are ranked is above that of the best other answer; 0 without another. Of a
    # moment the other may be of the same video. An answer that looks alike is no other answer.
    lead: float
    # Mean cosine of the question and the captions of anything. A short plain text, such as one noun, is rather near to
    # all pictures, so the same z score means less.
    generality: float
    log_frames: float  # logarithm of the frames of the video: the best of many frames is near to something by chance
    log_videos: float  # logarithm of the videos that were searched
    is_alone: float  # 1 where no other video was searched, so that there is no margin; else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """A logistic regression: how often an answer with this evidence is right.

    Source: J. Platt, Probabilistic outputs for support vector machines, 1999; here with several inputs.
    """

    intercept: float
    weights: Evidence

    def confidence(self, evidence: Evidence) -> float:
        """Return the confidence of an answer, 0..1."""
        weights = self.weights
        return logistic(
            self.intercept
            + weights.own * evidence.own
            + weights.video * evidence.video
            + weights.margin * evidence.margin
            + weights.lead * evidence.lead
            + weights.generality * evidence.generality
            + weights.log_frames * evidence.log_frames
            + weights.log_videos * evidence.log_videos
            + weights.is_alone * evidence.is_alone
        )

    def __post_init__(self) -> None:
        numbers = [self.intercept, *(getattr(self.weights, each.name) for each in fields(Evidence))]
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
            raise ValueError(f"intercept and weights must be finite numbers, got {numbers}")


def weigh_own(*, half_at: float, slope: float) -> Regression:
    """Return a regression on the z score of the own frames alone: 0.5 at `half_at`, rising by `slope` logits a unit."""
    none = dict.fromkeys((each.name for each in fields(Evidence)), 0.0)
    return Regression(intercept=-slope * half_at, weights=Evidence(**{**none, "own": slope}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The numbers that turn similarities into ranks, moments and verdicts."""

    templates: tuple[str, ...]  # sentences around "{}"; the query vector is the mean of their vectors
    bank_share: float  # 0..1: the share of the mean similarity to generic captions that a frame's similarity loses
    # Softmax temperatures that pool the frames of a video. Most frames decide about a whole video, the few best frames
    # about a moment.
    video_temperature: float
    moment_temperature: float
    video: Regression  # of a whole video as the answer to a text
    moment: Regression  # of a moment as the answer to a text
    picture: Scale  # of the cosine of a picture, as the question, and the best frame of a moment

    def __post_init__(self) -> None:
        if not self.templates or any(template.count("{}") != 1 for template in self.templates):
            raise ValueError(f'each template must hold "{{}}" once, got {self.templates}')
        if not 0 <= self.bank_share <= 1:
            raise ValueError(f"bank_share must be in [0, 1], got {self.bank_share}")
        if min(self.video_temperature, self.moment_temperature) <= 0:
            raise ValueError("temperatures must be > 0")


# For an encoder without a calibration. These are guesses: no weights of such a model were available to measure. The
# moment temperature is CLIP's own 0.01 (https://arxiv.org/abs/2103.00020); the video temperature is three times that.
# The confidences are low on purpose: the z scores of wrong answers of `mini` seldom reach 4.
GENERIC = Calibration(
    templates=("{}", "a photo of {}", "a video frame of {}"),
    bank_share=0.5,
    video_temperature=0.03,
    moment_temperature=0.01,
    video=weigh_own(half_at=3.5, slope=1.5),
    moment=weigh_own(half_at=3.5, slope=1.5),
    picture=Scale(no_match_below=0.85, match_above=0.93),
)


def calibration_from(values: Mapping[str, Any]) -> Calibration:
    """Make a calibration from parsed JSON.

    Raises:
        ValueError: If a value is missing, unknown, or out of range.
    """
    try:
        regressions = {
            name: Regression(intercept=values[name]["intercept"], weights=Evidence(**values[name]["weights"]))
            for name in ("video", "moment")
        }
        scale = Scale(**values["picture"])
        return Calibration(**{**values, **regressions, "picture": scale, "templates": tuple(values["templates"])})
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
    """Store a calibration under its fingerprint, next to those of other encoders.

    A file that cannot be used, for instance one of an older version, is replaced.
    """
    try:
        stored = {name: asdict(calibration) for name, calibration in read_calibrations(path).items()}
    except ValueError:
        stored = {}
    stored[fingerprint] = asdict(calibration)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
