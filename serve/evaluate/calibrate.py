"""Calibrating a visual encoder on questions with known answers: `kinodex calibrate`.

Those held out choose nothing; they are counted apart, so that the figures can be believed.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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

TEMPLATES = (("{}",), ("{}", "a photo of {}"), ("{}", "a photo of {}", "a video frame of {}"))
BANK_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)
# Of the questions without an answer: how many are to be called NO_MATCH, and how many no MATCH.
NO_MATCH_QUANTILE = 0.6
MATCH_QUANTILE = 0.9
NARROWEST = 0.2  # z scores between the two thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOutcome:
    """How one kind of question fares with a calibration. Ranks are those of the right video, from 1."""

    name: str
    count: int
    recall_at_1: float | None  # None: there is no right video
    recall_at_5: float | None
    recall_at_10: float | None
    median_rank: float | None
    match: float  # share called MATCH
    no_match: float  # share called NO_MATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """What was measured and chosen."""

    encoder: str
    fingerprint: str
    calibration: Calibration
    chosen_on: tuple[CalibrationOutcome, ...]
    held_out: tuple[CalibrationOutcome, ...]  # questions that chose nothing; empty where there are none


def calibrate(library: Library, questions: Questions) -> CalibrationReport:
    """Choose the calibration under which the questions fare best.

    Templates, bank share and video temperature are those of the highest mean reciprocal rank of the right video over
    the whole-video questions; the moment temperature likewise over the moments. The thresholds are quantiles of the z
    scores of what is not there, the higher of two: of the absent questions, and of the others asked of the videos that
    do not answer them.

    Raises:
        NoVisualEncoder: If the library was indexed without one.
        QuestionsInvalid: If no question is about a video that is here.
    """
    encoder = library.encoders.visual
    if encoder is None:
        raise NoVisualEncoder(f"nothing to calibrate: {library.directory} was indexed without a visual encoder")
    frames = {}
    for video in library.videos():
        vectors = library.catalog.frames(video.row).vectors
        if len(vectors):
            frames[Path(video.uri).name] = vectors
    here = Questions(
        source=questions.source,
        videos=tuple(one for one in questions.videos if one.file in frames),
        moments=tuple(one for one in questions.moments if one.file in frames and one.channel == "visual"),
        absent=tuple(one for one in questions.absent if one.channel == "visual"),
    )
    trial = Trial(encoder, frames)
    train = [[one for one in kind if not one.is_held_out] for kind in (here.videos, here.moments, here.absent)]
    if not (train[0] and train[1] and train[2]):
        raise QuestionsInvalid(questions.source, "whole videos of this library, moments and absent things are needed")
    templates, bank_share, video_temperature = max(
        itertools.product(TEMPLATES, BANK_SHARES, TEMPERATURES),
        key=lambda setting: reciprocal_rank(trial.ranks(train[0], *setting)),
    )
    moment_temperature = max(
        TEMPERATURES, key=lambda temperature: reciprocal_rank(trial.ranks(train[1], templates, bank_share, temperature))
    )
    calibration = Calibration(
        templates=templates,
        bank_share=bank_share,
        video_temperature=video_temperature,
        moment_temperature=moment_temperature,
        video=choose_scale(
            *(trial.absent_scores(train[kind], templates, bank_share, video_temperature) for kind in (0, 2))
        ),
        moment=choose_scale(
            *(trial.absent_scores(train[kind], templates, bank_share, moment_temperature) for kind in (1, 2))
        ),
    )
    held_out = [[one for one in kind if one.is_held_out] for kind in (here.videos, here.moments, here.absent)]
    return CalibrationReport(
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        calibration=calibration,
        chosen_on=measure_outcomes(trial, calibration, *train),
        held_out=measure_outcomes(trial, calibration, *held_out) if all(held_out) else (),
    )


class Trial:
    """Asks questions of videos' frame vectors under any setting."""

    def __init__(self, encoder: VisualEncoder, frames: Mapping[str, NDArray[np.float32]]) -> None:
        self.encoder, self.frames, self.names = encoder, frames, list(frames)
        self.bank = encoder.encode_texts(BANK)
        self.vectors: dict[tuple[str, tuple[str, ...]], NDArray[np.float32]] = {}

    def scores(
        self, questions: Sequence[Question], templates: tuple[str, ...], bank_share: float, temperature: float
    ) -> NDArray[np.float32]:
        """Score every video for every question: float32 (Q, V)."""
        bias = bank_share * self.bank.mean(axis=0)
        queries = np.stack([self.vector(one.text, templates) for one in questions]) - bias
        return np.stack([softmax_mean(self.frames[name] @ queries.T, temperature) for name in self.names], axis=1)

    def vector(self, text: str, templates: tuple[str, ...]) -> NDArray[np.float32]:
        if (text, templates) not in self.vectors:
            self.vectors[text, templates] = encode_text(self.encoder.encode_texts, templates, text)
        return self.vectors[text, templates]

    def ranks(
        self, questions: Sequence[Question], templates: tuple[str, ...], bank_share: float, temperature: float
    ) -> NDArray[np.int64]:
        """Return the right video's rank for each question, from 1."""
        scores = self.scores(questions, templates, bank_share, temperature)
        own = scores[np.arange(len(questions)), [self.names.index(one.file or "") for one in questions]]
        return np.asarray((scores >= own[:, None]).sum(axis=1))

    def first_scores(
        self,
        questions: Sequence[Question],
        templates: tuple[str, ...],
        bank_share: float,
        temperature: float,
        *,
        without_own: bool = False,
    ) -> list[float]:
        """Return the z score of each question's first video, perhaps with its own left out."""
        bias = bank_share * self.bank.mean(axis=0)
        generic = [softmax_mean(self.frames[name] @ (self.bank - bias).T, temperature) for name in self.names]
        scores = self.scores(questions, templates, bank_share, temperature)
        found = []
        for row, one in zip(scores, questions, strict=True):
            running = [v for v, name in enumerate(self.names) if not (without_own and name == one.file)]
            first = max(running, key=lambda v: row[v])
            found.append(z_score(float(row[first]), float(generic[first].mean()), float(generic[first].std())))
        return found

    def absent_scores(
        self, questions: Sequence[Question], templates: tuple[str, ...], bank_share: float, temperature: float
    ) -> list[float]:
        """Return the z scores of what is not there."""
        return self.first_scores(questions, templates, bank_share, temperature, without_own=True)


def choose_scale(*absent: Sequence[float]) -> Scale:
    """Set the thresholds so that most of what is not there is called so, in each of the kinds of absent questions."""
    no_match = max(float(np.quantile(scores, NO_MATCH_QUANTILE)) for scores in absent)
    match = max([no_match + NARROWEST, *(float(np.quantile(scores, MATCH_QUANTILE)) for scores in absent)])
    return Scale(no_match_below=round(no_match, 2), match_above=round(match, 2))


def reciprocal_rank(ranks: NDArray[np.int64]) -> float:
    return float((1 / ranks).mean())


def measure_outcomes(
    trial: Trial, calibration: Calibration, videos: list[Question], moments: list[Question], absent: list[Question]
) -> tuple[CalibrationOutcome, ...]:
    """Count how each kind of question fares."""
    setting = (calibration.templates, calibration.bank_share)
    video = (*setting, calibration.video_temperature)
    moment = (*setting, calibration.moment_temperature)
    return (
        measure_outcome(
            "whole videos", trial.ranks(videos, *video), trial.first_scores(videos, *video), calibration.video
        ),
        measure_outcome(
            "moments", trial.ranks(moments, *moment), trial.first_scores(moments, *moment), calibration.moment
        ),
        measure_outcome("absent", None, trial.first_scores(absent, *moment), calibration.moment),
    )


def measure_outcome(
    name: str, ranks: NDArray[np.int64] | None, scores: Sequence[float], scale: Scale
) -> CalibrationOutcome:
    """Count one kind of question; `ranks` is None where there is no right video."""
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
