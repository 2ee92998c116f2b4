"""Calibrates a visual encoder on questions with known answers, for `kinodex calibrate`.

Questions that are held out choose nothing. Their figures are reported apart: they measure the calibration fairly.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import Calibration, Scale
from encoders.caption_bank import BANK
from encoders.clip import VisualEncoder
from encoders.errors import NoVisualEncoder
from serve.errors import QuestionsInvalid
from serve.evaluate.questions import Question, Questions
from serve.search.library import Library
from serve.search.pooling import softmax_mean
from serve.search.visual import encode_text, z_score

# The settings that are tried. See encoders.calibration.Calibration for their meaning.
TEMPLATES = (("{}",), ("{}", "a photo of {}"), ("{}", "a photo of {}", "a video frame of {}"))
BANK_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)
NO_MATCH_QUANTILE = 0.6  # share of the questions without an answer that the thresholds call NO_MATCH
MATCH_QUANTILE = 0.9  # share of the questions without an answer that the thresholds do not call MATCH
MIN_SCALE_WIDTH = 0.2  # least distance of the two thresholds, in z scores


class TrialSetting(NamedTuple):
    """One of the settings that are tried; see encoders.calibration.Calibration."""

    templates: tuple[str, ...]
    bank_share: float
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOutcome:
    """The figures of one kind of question under a calibration. Ranks are ranks of the right video, from 1."""

    name: str
    count: int
    recall_at_1: float | None  # None: the questions have no right video
    recall_at_5: float | None
    recall_at_10: float | None
    median_rank: float | None
    match: float  # share of questions whose first video is called MATCH
    no_match: float  # share of questions whose first video is called NO_MATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """The chosen calibration, and its figures."""

    encoder: str
    fingerprint: str
    calibration: Calibration
    chosen_on: tuple[CalibrationOutcome, ...]
    held_out: tuple[CalibrationOutcome, ...]  # empty unless questions of each kind are held out


def choose_calibration(library: Library, questions: Questions) -> CalibrationReport:
    """Choose the calibration under which the questions are answered best.

    Templates, bank share and video temperature maximise the mean reciprocal rank of the right video over the questions
    about whole videos. The moment temperature maximises it over the moments. Each threshold is a quantile of the z
    scores of questions without an answer. There are two kinds of them: the absent questions, and the other questions
    asked of all videos but the right one. The higher quantile of the two holds.

    Raises:
        NoVisualEncoder: If the library was indexed without a visual encoder.
        QuestionsInvalid: If the library does not hold a video of each kind of question.
    """
    encoder = library.encoders.visual
    if encoder is None:
        raise NoVisualEncoder(f"nothing to calibrate: {library.directory} was indexed without a visual encoder")
    frames = {}
    for each in library.videos():
        vectors = library.catalog.frames(each.row).vectors
        if len(vectors):
            frames[Path(each.uri).name] = vectors
    kinds = (
        [question for question in questions.videos if question.file in frames],
        [question for question in questions.moments if question.file in frames and question.channel == "visual"],
        [question for question in questions.absent if question.channel == "visual"],
    )
    trial = CalibrationTrial(encoder, frames)
    train = [[question for question in kind if not question.is_held_out] for kind in kinds]
    if not all(train):
        raise QuestionsInvalid(
            questions.source,
            'needs whole videos of this library, moments of them, and absent events, all of "half": "train"',
        )
    video = max(
        itertools.starmap(TrialSetting, itertools.product(TEMPLATES, BANK_SHARES, TEMPERATURES)),
        key=lambda setting: reciprocal_rank(trial.ranks(train[0], setting)),
    )
    moment = max(
        (video._replace(temperature=temperature) for temperature in TEMPERATURES),
        key=lambda setting: reciprocal_rank(trial.ranks(train[1], setting)),
    )
    calibration = Calibration(
        templates=video.templates,
        bank_share=video.bank_share,
        video_temperature=video.temperature,
        moment_temperature=moment.temperature,
        video=choose_scale(*(trial.first_scores(train[kind], video, without_right=True) for kind in (0, 2))),
        moment=choose_scale(*(trial.first_scores(train[kind], moment, without_right=True) for kind in (1, 2))),
    )
    held_out = [[question for question in kind if question.is_held_out] for kind in kinds]
    return CalibrationReport(
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        calibration=calibration,
        chosen_on=measure_outcomes(trial, calibration, *train),
        held_out=measure_outcomes(trial, calibration, *held_out) if all(held_out) else (),
    )


class CalibrationTrial:
    """Asks Q questions about V videos under any setting. Caches the vectors of the texts."""

    def __init__(self, encoder: VisualEncoder, frames: Mapping[str, NDArray[np.float32]]) -> None:
        self.encoder, self.frames, self.names = encoder, frames, list(frames)
        self.bank = encoder.encode_texts(BANK)
        self.vectors: dict[tuple[str, tuple[str, ...]], NDArray[np.float32]] = {}

    def scores(self, questions: Sequence[Question], setting: TrialSetting) -> NDArray[np.float32]:
        """Score every video for every question: float32 (Q, V)."""
        bias = setting.bank_share * self.bank.mean(axis=0)
        queries = np.stack([self.vector(question.text, setting.templates) for question in questions]) - bias
        scores = [softmax_mean(self.frames[name] @ queries.T, setting.temperature) for name in self.names]
        return np.stack(scores, axis=1)

    def vector(self, text: str, templates: tuple[str, ...]) -> NDArray[np.float32]:
        """Encode a text: float32 (D,)."""
        if (text, templates) not in self.vectors:
            self.vectors[text, templates] = encode_text(self.encoder.encode_texts, templates, text)
        return self.vectors[text, templates]

    def ranks(self, questions: Sequence[Question], setting: TrialSetting) -> NDArray[np.int64]:
        """Return the rank of the right video for each question, from 1: int64 (Q,)."""
        scores = self.scores(questions, setting)
        right = [self.names.index(question.file or "") for question in questions]
        right_scores = scores[np.arange(len(questions)), right]
        return np.asarray((scores >= right_scores[:, None]).sum(axis=1))

    def first_scores(
        self, questions: Sequence[Question], setting: TrialSetting, *, without_right: bool = False
    ) -> list[float]:
        """Return the z score of the first video for each question.

        `without_right` leaves the right video out: the score of an answer that is not there.
        """
        bias = setting.bank_share * self.bank.mean(axis=0)
        generic = [softmax_mean(self.frames[name] @ (self.bank - bias).T, setting.temperature) for name in self.names]
        scores = self.scores(questions, setting)
        z_scores = []
        for row, question in zip(scores, questions, strict=True):
            candidates = [v for v, name in enumerate(self.names) if not (without_right and name == question.file)]
            first = max(candidates, key=lambda v: row[v])
            z_scores.append(z_score(float(row[first]), float(generic[first].mean()), float(generic[first].std())))
        return z_scores


def choose_scale(*absent: Sequence[float]) -> Scale:
    """Choose the thresholds that reject enough of each kind of questions without an answer, given their z scores."""
    no_match = max(float(np.quantile(scores, NO_MATCH_QUANTILE)) for scores in absent)
    match = max([no_match + MIN_SCALE_WIDTH, *(float(np.quantile(scores, MATCH_QUANTILE)) for scores in absent)])
    return Scale(no_match_below=round(no_match, 2), match_above=round(match, 2))


def reciprocal_rank(ranks: NDArray[np.int64]) -> float:
    return float((1 / ranks).mean())


def measure_outcomes(
    trial: CalibrationTrial,
    calibration: Calibration,
    videos: list[Question],
    moments: list[Question],
    absent: list[Question],
) -> tuple[CalibrationOutcome, ...]:
    """Measure each kind of question under a calibration."""
    video = TrialSetting(calibration.templates, calibration.bank_share, calibration.video_temperature)
    moment = video._replace(temperature=calibration.moment_temperature)
    return (
        measure_outcome(
            "whole videos", trial.ranks(videos, video), trial.first_scores(videos, video), calibration.video
        ),
        measure_outcome(
            "moments", trial.ranks(moments, moment), trial.first_scores(moments, moment), calibration.moment
        ),
        measure_outcome("absent", None, trial.first_scores(absent, moment), calibration.moment),
    )


def measure_outcome(
    name: str, ranks: NDArray[np.int64] | None, scores: Sequence[float], scale: Scale
) -> CalibrationOutcome:
    """Measure one kind of question; `ranks` is None for absent questions, which have no right video."""
    shares = [None if ranks is None else float((ranks <= k).mean()) for k in (1, 5, 10)]
    return CalibrationOutcome(
        name=name,
        count=len(scores),
        recall_at_1=shares[0],
        recall_at_5=shares[1],
        recall_at_10=shares[2],
        median_rank=None if ranks is None else float(np.median(ranks)),
        match=float(np.mean([score >= scale.match_above for score in scores])),
        no_match=float(np.mean([score < scale.no_match_below for score in scores])),
    )
