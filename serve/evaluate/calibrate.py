"""Calibrates a visual encoder on questions with known answers, for `kinodex calibrate`.

First the settings of the ranking are chosen, then the confidences are fitted (serve.evaluate.confidence). Questions
that are held out choose nothing. Their figures are reported apart: they measure the calibration fairly.
"""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.batching import TextVectors
from encoders.calibration import GENERIC, Calibration
from encoders.caption_bank import BANK
from encoders.clip import VisualEncoder
from encoders.errors import NoVisualEncoder
from serve.errors import QuestionsInvalid
from serve.evaluate.confidence import (
    AskedQuestion,
    ConfidenceOutcome,
    Sample,
    ask_questions,
    cross_validate,
    draw_samples,
    fit_pictures,
    fit_samples,
    measure_confidences,
)
from serve.evaluate.questions import Question, Questions
from serve.index import open_index
from serve.search.library import Library
from serve.search.pooling import softmax_mean
from serve.search.visual import VisualChannel, encode_text
from serve.values import Video

# The settings that are tried. See encoders.calibration.Calibration for their meaning.
TEMPLATES = (("{}",), ("{}", "a photo of {}"), ("{}", "a photo of {}", "a video frame of {}"))
BANK_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)


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
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    median_rank: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """The chosen calibration, and its figures."""

    encoder: str
    fingerprint: str
    calibration: Calibration
    chosen_on: tuple[CalibrationOutcome, ...]
    held_out: tuple[CalibrationOutcome, ...]  # empty unless questions of both kinds are held out
    chosen_confidences: tuple[ConfidenceOutcome, ...]  # by cross-validation: the fit of an answer knew not its video
    held_out_confidences: tuple[ConfidenceOutcome, ...]  # empty unless questions are held out


def choose_calibration(library: Library, questions: Questions) -> CalibrationReport:
    """Choose the calibration under which the questions are answered best.

    Templates, bank share and video temperature maximise the mean reciprocal rank of the right video over the questions
    about whole videos. The moment temperature maximises it over the moments. Then the confidences of moments and of
    videos are fitted to the answers of the library, and of parts of it, to all of these questions and to the absent
    ones.

    Raises:
        NoVisualEncoder: If the library was indexed without a visual encoder.
        QuestionsInvalid: If the library does not hold a video of each kind of question.
    """
    encoder = library.encoders.visual
    if encoder is None:
        raise NoVisualEncoder(f"nothing to calibrate: {library.directory} was indexed without a visual encoder")
    videos, frames = {}, {}
    for each in library.videos():
        vectors = library.catalog.frames(each.row).vectors
        if len(vectors):
            videos[Path(each.uri).name], frames[Path(each.uri).name] = each, vectors
    kinds = (
        [question for question in questions.videos if question.file in frames],
        [question for question in questions.moments if question.file in frames and question.channel == "visual"],
        [question for question in questions.absent if question.channel == "visual"],
    )
    train = [[question for question in kind if not question.is_held_out] for kind in kinds]
    if not all(train):
        raise QuestionsInvalid(
            questions.source,
            'needs whole videos of this library, moments of them, and absent events, all of "half": "train"',
        )
    trial = CalibrationTrial(encoder, frames)
    calibration = choose_settings(trial, *train[:2])
    calibration, reliability = fit_confidences(library, calibration, videos, list(itertools.chain(*train)))
    held_out = [[question for question in kind if question.is_held_out] for kind in kinds]
    return CalibrationReport(
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
        calibration=calibration,
        chosen_on=measure_outcomes(trial, calibration, *train[:2]),
        held_out=measure_outcomes(trial, calibration, *held_out[:2]) if all(held_out[:2]) else (),
        chosen_confidences=reliability,
        held_out_confidences=check_confidences(library, calibration, videos, list(itertools.chain(*held_out))),
    )


def choose_settings(trial: "CalibrationTrial", videos: Sequence[Question], moments: Sequence[Question]) -> Calibration:
    """Choose the settings of the ranking. The confidences of the result are guesses."""
    video = max(
        itertools.starmap(TrialSetting, itertools.product(TEMPLATES, BANK_SHARES, TEMPERATURES)),
        key=lambda setting: reciprocal_rank(trial.ranks(videos, setting)),
    )
    moment = max(
        (video._replace(temperature=temperature) for temperature in TEMPERATURES),
        key=lambda setting: reciprocal_rank(trial.ranks(moments, setting)),
    )
    return replace(
        GENERIC,
        templates=video.templates,
        bank_share=video.bank_share,
        video_temperature=video.temperature,
        moment_temperature=moment.temperature,
    )


def fit_confidences(
    library: Library, calibration: Calibration, videos: Mapping[str, Video], questions: Sequence[Question]
) -> tuple[Calibration, tuple[ConfidenceOutcome, ...]]:
    """Fit the confidences to the answers to some questions; return them, and how well they fit by cross-validation."""
    asked = ask_library(library, calibration, videos, questions)
    of_moments, of_videos = draw_samples(asked, "moment"), draw_samples(asked, "video")
    frames = [library.catalog.frames(video.row) for video in videos.values()]
    pictures = [
        (name, each.pts_seconds, each.vectors.astype(np.float32)) for name, each in zip(videos, frames, strict=True)
    ]
    fitted = replace(
        calibration,
        moment=fit_samples(of_moments),
        video=fit_samples(of_videos),
        picture=fit_pictures(pictures, [question for question in questions if question.file is not None])
        or calibration.picture,
    )
    return fitted, (
        *measure_sizes("moments", of_moments, cross_validate(of_moments)),
        *measure_sizes("whole videos", of_videos, cross_validate(of_videos)),
    )


def check_confidences(
    library: Library, calibration: Calibration, videos: Mapping[str, Video], questions: Sequence[Question]
) -> tuple[ConfidenceOutcome, ...]:
    """Measure the confidences of answers to questions to which they were not fitted."""
    if not questions:
        return ()
    asked = ask_library(library, calibration, videos, questions)
    of_moments, of_videos = draw_samples(asked, "moment"), draw_samples(asked, "video")
    return (
        *measure_sizes("moments", of_moments, [calibration.moment.confidence(each.evidence) for each in of_moments]),
        *measure_sizes("whole videos", of_videos, [calibration.video.confidence(each.evidence) for each in of_videos]),
    )


def ask_library(
    library: Library, calibration: Calibration, videos: Mapping[str, Video], questions: Sequence[Question]
) -> list[AskedQuestion]:
    """Weigh every video for every question, as a search under a calibration would."""
    encoder, settings = library.encoders.visual, library.settings
    assert encoder is not None
    # Not the library's engine: it would read the present calibration of the library, which may be damaged.
    index = open_index(library.directory, "segments", encoder.fingerprint, settings.index)  # empty, and not asked
    channel = VisualChannel(
        library.catalog,
        encoder,
        TextVectors(encoder.encode_texts),
        index,
        settings.moments,
        calibration,
        cache_bytes=settings.server.frame_cache_bytes,
    )
    rows = {name: video.row for name, video in videos.items()}
    with contextlib.closing(index), library.catalog.snapshot():
        return ask_questions(channel, questions, list(videos.values()), rows)


def measure_sizes(name: str, samples: Sequence[Sample], confidences: Sequence[float]) -> list[ConfidenceOutcome]:
    """Measure the confidences in libraries of one video, in all libraries, and in the largest."""
    largest = max(sample.size for sample in samples)
    wanted = {
        f"{name}, one video": {1},
        f"{name}, libraries of all sizes": {sample.size for sample in samples},
        f"{name}, {largest} videos": {largest, largest - 1},  # without the right one, one less
    }
    measured = []
    for title, sizes in wanted.items():
        chosen = [n for n, sample in enumerate(samples) if sample.size in sizes]
        if chosen:
            measured.append(measure_confidences(title, [samples[n] for n in chosen], [confidences[n] for n in chosen]))
    return measured


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


def reciprocal_rank(ranks: NDArray[np.int64]) -> float:
    return float((1 / ranks).mean())


def measure_outcomes(
    trial: CalibrationTrial, calibration: Calibration, videos: Sequence[Question], moments: Sequence[Question]
) -> tuple[CalibrationOutcome, ...]:
    """Measure the ranks of the right videos under a calibration."""
    video = TrialSetting(calibration.templates, calibration.bank_share, calibration.video_temperature)
    moment = video._replace(temperature=calibration.moment_temperature)
    return (
        measure_outcome("whole videos", trial.ranks(videos, video)),
        measure_outcome("moments", trial.ranks(moments, moment)),
    )


def measure_outcome(name: str, ranks: NDArray[np.int64]) -> CalibrationOutcome:
    """Measure one kind of question."""
    return CalibrationOutcome(
        name=name,
        count=len(ranks),
        recall_at_1=float((ranks <= 1).mean()),
        recall_at_5=float((ranks <= 5).mean()),
        recall_at_10=float((ranks <= 10).mean()),
        median_rank=float(np.median(ranks)),
    )
