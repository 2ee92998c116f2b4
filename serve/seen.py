"""The visual channel: frames near a question, de-biased, read as moments on each video's full curve."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from encoders.batching import TextVectors
from encoders.calibration import Calibration
from encoders.clip import VisualEncoder
from encoders.probes import BANK
from encoders.values import FrameEmbeddings
from serve.catalog import Catalog
from serve.index import VectorIndex
from serve.sharing import RowCache
from serve.values import Video
from temporal.config import MomentConfig
from temporal.moments import find_moments, shot_cuts
from temporal.values import ScoredSpan, TimeSpan

SEGMENT_COUNT = 512  # nearest segments whose videos are read in full
VIDEO_COUNT = 200  # videos whose curves are read for one question (field practice: exact re-score of the top 200)
CACHED_TRAITS_COUNT = 200_000  # videos: about 1 KB each
CALIBRATED_COUNT = 20  # best videos for which the no-match test is worth its cost
# Of what a frame has in common with an exclusion, beyond what it has with captions of anything, this much is taken from
# its score. (Field practice; encoders know no "not", so exclusion is arithmetic.)
EXCLUDED_SHARE = 1.0
EXCLUDED_FRAMES = 0.5  # share of a moment's frames that may show more of the exclusion than of the question


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One video in the eyes of a question."""

    video: Video
    score: float  # de-biased similarity of the whole video, about -0.2..0.5
    confidence: float  # 0..1 that this is the video, by the no-match test against generic captions on it
    best: float  # as score, of its best frames
    best_confidence: float  # as confidence, that its best frames show it
    moments: tuple[ScoredSpan, ...]  # best first


@dataclass(slots=True, kw_only=True)
class Traits:
    """What no question changes in one video's frames: a few numbers, dear to compute."""

    cut_seconds: NDArray[np.float64] | None = None  # None: not looked for yet
    generic: dict[float, tuple[float, float]] = field(default_factory=dict)  # temperature -> mean, spread of the bank


class VisualChannel:
    """Finds what was shown. Any number of threads may ask."""

    def __init__(
        self,
        catalog: Catalog,
        encoder: VisualEncoder,
        index: VectorIndex,
        config: MomentConfig,
        calibration: Calibration,
        *,
        cache_bytes: int,
    ) -> None:
        self.catalog, self.encoder, self.index = catalog, encoder, index
        self.config, self.calibration = config, calibration
        self.texts = TextVectors(encoder.encode_texts)
        self.frames = RowCache(catalog.frames, size_of, cache_bytes)
        self.traits = RowCache(lambda row: Traits(), lambda traits: 1, CACHED_TRAITS_COUNT)
        self.bank = encoder.encode_texts(BANK)  # (K, D)
        self.generic_direction = self.bank.mean(axis=0)
        self.bias = calibration.bank_share * self.generic_direction
        # A video's product is small: a second thread's waiting costs more than it brings, and questions have threads of
        # their own. For the whole process: a limit that each question set and lifted would be lifted under another.
        threadpool_limits(limits=1, user_api="blas")

    def text_vector(self, text: str) -> NDArray[np.float32]:
        """Return float32 (D,), unit: the mean over the encoder's prompt templates."""
        return text_vector(self.texts.encode, self.calibration.templates, text)

    def image_vector(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (D,), unit, of a picture at the encoder's input size."""
        return np.asarray(self.encoder.encode_frames(pixels[None])[0])

    def example_vector(self, row: int, span: TimeSpan) -> NDArray[np.float32] | None:
        """Return float32 (D,), unit, of the frames in a span, or of the nearest; None for a video without pictures."""
        embeddings = self.frames[row]
        if not len(embeddings.pts_seconds):
            return None
        total = embeddings.vectors[within(embeddings.pts_seconds, span)].sum(axis=0)
        return np.asarray(total / np.linalg.norm(total), np.float32)

    def ask(
        self,
        query: NDArray[np.float32],
        videos: Sequence[Video],
        *,
        everywhere: bool = False,
        excluded: NDArray[np.float32] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> list[Seen]:
        """Return the videos of these that may show it, best first, with their moments.

        Args:
            query: float32 (D,), unit.
            everywhere: These are all the videos there are.
            excluded: float32 (D,), unit: what is not to be shown. Videos and moments that show more of it than of the
                query are left out.
            check: Called between videos; what it raises ends the search.
        """
        curves = []
        for video in self.candidates(query, videos, everywhere):
            check()
            if (curve := self.curve(query, video, excluded)) is not None:
                curves.append((float(pooled(curve.values, self.calibration.video_temperature)), curve))
        curves.sort(key=lambda entry: -entry[0])
        found = []
        for rank, (score, curve) in enumerate(curves):
            check()
            found.append(self.judged(score, curve) if rank < CALIBRATED_COUNT else unjudged(score, curve))
        return found

    def candidates(self, query: NDArray[np.float32], videos: Sequence[Video], everywhere: bool) -> list[Video]:
        """Return the videos whose curves to read: all of a small library, else those of the nearest segments."""
        if len(videos) <= VIDEO_COUNT:
            return list(videos)
        by_row = {video.row: video for video in videos}
        ids, _ = self.index.search(query[None], SEGMENT_COUNT, rows=None if everywhere else list(by_row))
        rows = dict.fromkeys(row for row, _ in self.catalog.locate("segments", [int(n) for n in ids[0] if n >= 0]))
        return [by_row[row] for row in list(rows)[:VIDEO_COUNT]]

    def curve(self, query: NDArray[np.float32], video: Video, excluded: NDArray[np.float32] | None) -> "Curve | None":
        """Score every frame of a video; None where there is none, or where it shows more of the exclusion."""
        frames = self.frames[video.row]
        vectors = frames.vectors
        if not len(vectors):
            return None
        values = vectors @ (query - self.bias)
        if excluded is None:
            return Curve(video=video, frames=frames, values=values, shows_excluded=None)
        unwanted = np.maximum(vectors @ (excluded - self.generic_direction), 0)
        shows_excluded = unwanted > values
        if shows_excluded.all():
            return None
        return Curve(
            video=video, frames=frames, values=values - EXCLUDED_SHARE * unwanted, shows_excluded=shows_excluded
        )

    def judged(self, score: float, curve: "Curve") -> Seen:
        """Find a video's moments, and how far it and they stand out from captions of anything."""
        calibration = self.calibration
        best = float(pooled(curve.values, calibration.moment_temperature))
        for_video = z_score(score, *self.generic(curve, calibration.video_temperature))
        for_moment = z_score(best, *self.generic(curve, calibration.moment_temperature))
        return Seen(
            video=curve.video,
            score=score,
            confidence=calibration.video.confidence(for_video),
            best=best,
            best_confidence=calibration.moment.confidence(for_moment),
            moments=self.moments(curve),
        )

    def generic(self, curve: "Curve", temperature: float) -> tuple[float, float]:
        """Return the mean and spread of the scores that captions of anything have on a curve's video."""
        known = self.traits[curve.video.row].generic
        if temperature not in known:
            scores = pooled(curve.frames.vectors @ (self.bank - self.bias).T, temperature)  # (K,)
            known[temperature] = (float(scores.mean()), float(scores.std()))
        return known[temperature]

    def forget(self, rows: Iterable[int]) -> None:
        """Let go of videos that are gone."""
        self.frames.discard(rows)
        self.traits.discard(rows)

    def moments(self, curve: "Curve") -> tuple[ScoredSpan, ...]:
        """Read the curve; a video that shows one thing from end to end is one moment."""
        embeddings, values, traits = curve.frames, curve.values, self.traits[curve.video.row]
        if traits.cut_seconds is None:
            traits.cut_seconds = shot_cuts(embeddings)
        found = find_moments(
            embeddings.pts_seconds,
            values,
            epochs=embeddings.epochs,
            duration_seconds=curve.video.duration_seconds,
            cut_seconds=traits.cut_seconds,
            config=self.config,
        )
        if not found and embeddings.epochs[0] == embeddings.epochs[-1]:
            best = int(np.argmax(values))
            whole = TimeSpan(start_seconds=0.0, end_seconds=curve.video.duration_seconds)
            peak_seconds, peak = float(embeddings.pts_seconds[best]), float(values[best])
            found = [ScoredSpan(span=whole, score=0.0, peak_seconds=peak_seconds, peak=peak)]
        excluded = curve.shows_excluded
        return tuple(
            moment
            for moment in found
            if excluded is None or excluded[within(embeddings.pts_seconds, moment.span)].mean() < EXCLUDED_FRAMES
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How near each frame of one video is to a question."""

    video: Video
    frames: FrameEmbeddings
    values: NDArray[np.float32]  # (F,), de-biased
    shows_excluded: NDArray[np.bool_] | None  # (F,), True: it shows more of the exclusion than of the question


def unjudged(score: float, curve: Curve) -> Seen:
    """Return a video too far down the list for the no-match test."""
    return Seen(video=curve.video, score=score, confidence=0.0, best=0.0, best_confidence=0.0, moments=())


def size_of(frames: FrameEmbeddings) -> int:
    return frames.vectors.nbytes + frames.pts_seconds.nbytes + frames.epochs.nbytes


def within(times: NDArray[np.float64], span: TimeSpan) -> slice:
    """Return where the times of a span are; where none is, the one before it, or the first."""
    first, last = (int(n) for n in np.searchsorted(times, (span.start_seconds, span.end_seconds)))
    return slice(first, last) if first < last else slice(max(first - 1, 0), max(first, 1))


def text_vector(
    encode: Callable[[Sequence[str]], NDArray[np.float32]], templates: Sequence[str], text: str
) -> NDArray[np.float32]:
    """Return float32 (D,), unit: the mean of a question's vectors in the sentences of `templates`."""
    summed = encode([template.format(text) for template in templates]).sum(axis=0)
    return np.asarray(summed / np.linalg.norm(summed), np.float32)


def z_score(score: float, mean: float, spread: float) -> float:
    """Compare a question's score on one video with those of captions that describe anything at all."""
    return (score - mean) / max(spread, 1e-6)


def pooled(similarities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Pool frames (F,) or (F, K) into one score (or K): their mean, weighted by softmax.

    Source: query-scoring, https://github.com/m-bain/clip-hitchhiker.
    """
    weights = np.exp((similarities - similarities.max(axis=0)) / temperature)
    return np.asarray((weights * similarities).sum(axis=0) / weights.sum(axis=0))
