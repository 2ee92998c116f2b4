"""The visual channel: frames near a question, de-biased, read as moments on each video's full curve."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from encoders.batching import TextVectors
from encoders.calibration import Calibration
from encoders.clip import VisualEncoder
from serve.catalog.catalog import Catalog
from serve.index.nearest import NearestIndex
from serve.search.caches import RowCache
from serve.search.pooling import Traits, softmax_mean
from serve.search.traits import Captions
from serve.search.video_rows import VideoFrames, read_frames
from serve.values import Video
from temporal.config import MomentConfig
from temporal.moments.moments import Scores, find_all_moments
from temporal.moments.shots import NO_CHANGES, changes_of, joined, picture_changes
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
class ScoredVideo:
    """One video in the eyes of a question."""

    video: Video
    score: float  # de-biased similarity of the whole video, about -0.2..0.5
    confidence: float  # 0..1 that this is the video, by the no-match test against generic captions on it
    best: float  # as score, of its best frames
    best_confidence: float  # as confidence, that its best frames show it
    moments: tuple[ScoredSpan, ...]  # best first


class VisualChannel:
    """Finds what was shown. Any number of threads may ask."""

    def __init__(
        self,
        catalog: Catalog,
        encoder: VisualEncoder,
        texts: TextVectors,
        index: NearestIndex,
        config: MomentConfig,
        calibration: Calibration,
        *,
        cache_bytes: int,
    ) -> None:
        """Take what there is.

        Args:
            texts: The encoder's vectors of texts; perhaps another's too, whose texts it encodes.
        """
        self.catalog, self.encoder, self.texts, self.index = catalog, encoder, texts, index
        self.config, self.calibration = config, calibration
        self.frames: RowCache[VideoFrames] = RowCache(
            partial(read_frames, catalog), lambda each: each.nbytes, cache_bytes
        )
        # Of files, as they outlast the frames; those of a live video change with it.
        self.traits: RowCache[Traits] = RowCache(lambda *_: Traits(), lambda traits: 1, CACHED_TRAITS_COUNT)
        self.captions = Captions(encoder, calibration)
        self.bank = self.captions.bank  # now: it takes longer than a question
        # A video's product is small: a second thread's waiting costs more than it brings, and questions have threads of
        # their own. For the whole process: a limit that each question set and lifted would be lifted under another.
        threadpool_limits(limits=1, user_api="blas")

    def encode_text(self, text: str) -> NDArray[np.float32]:
        """Return float32 (D,), unit: the mean over the encoder's prompt templates."""
        return encode_text(self.texts.encode, self.calibration.templates, text)

    def prompts(self, text: str) -> list[str]:
        """Return what encode_text() encodes."""
        return prompts(self.calibration.templates, text)

    def image_vector(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (D,), unit, of a picture at the encoder's input size."""
        return np.asarray(self.encoder.encode_frames(pixels[None])[0])

    def example_vector(self, video: Video, span: TimeSpan) -> NDArray[np.float32] | None:
        """Return float32 (D,), unit, of the frames in a span, or of the nearest; None for a video without pictures."""
        frames = self.frames.get(video.row, video.version)
        if not len(frames.pts_seconds):
            return None
        total = frames.vectors.sum(within(frames.pts_seconds, span))
        return np.asarray(total / np.linalg.norm(total), np.float32)

    def ask(
        self,
        query: NDArray[np.float32],
        videos: Sequence[Video],
        *,
        everywhere: bool = False,
        excluded: NDArray[np.float32] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> list[ScoredVideo]:
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
                curves.append((float(softmax_mean(curve.values, self.calibration.video_temperature)), curve))
        curves.sort(key=lambda entry: -entry[0])
        best, traits = curves[:CALIBRATED_COUNT], []
        for _, curve in best:
            check()
            traits.append(self.learn(curve))
        check()
        moments = self.moments([curve for _, curve in best])
        judged = [
            self.judged(score, curve, known, found)
            for (score, curve), known, found in zip(best, traits, moments, strict=True)
        ]
        return judged + [unjudged(score, curve) for score, curve in curves[CALIBRATED_COUNT:]]

    def candidates(self, query: NDArray[np.float32], videos: Sequence[Video], everywhere: bool) -> list[Video]:
        """Return the videos whose curves to read: all of a small library, else those of the nearest segments."""
        if len(videos) <= VIDEO_COUNT:
            return list(videos)
        by_row = {video.row: video for video in videos}
        rows = self.index.videos(query, SEGMENT_COUNT, rows=None if everywhere else list(by_row))
        return [by_row[row] for row in rows[:VIDEO_COUNT]]

    def curve(self, query: NDArray[np.float32], video: Video, excluded: NDArray[np.float32] | None) -> "Curve | None":
        """Score every frame of a video; None where there is none, or where it shows more of the exclusion."""
        frames = self.frames.get(video.row, video.version)
        vectors = frames.vectors
        if not len(vectors):
            return None
        values = vectors.dot(query - self.captions.bias)
        if excluded is None:
            return Curve(video=video, frames=frames, values=values, shows_excluded=None)
        unwanted: NDArray[np.float32] = np.maximum(vectors.dot(excluded - self.captions.direction), 0)
        shows_excluded = unwanted > values
        if shows_excluded.all():
            return None
        return Curve(
            video=video, frames=frames, values=values - EXCLUDED_SHARE * unwanted, shows_excluded=shows_excluded
        )

    def judged(self, score: float, curve: "Curve", traits: Traits, moments: tuple[ScoredSpan, ...]) -> ScoredVideo:
        """Say how far a video and its moments stand out from captions of anything."""
        calibration = self.calibration
        best = float(softmax_mean(curve.values, calibration.moment_temperature))
        for_video = z_score(score, *traits.generic[calibration.video_temperature])
        for_moment = z_score(best, *traits.generic[calibration.moment_temperature])
        return ScoredVideo(
            video=curve.video,
            score=score,
            confidence=calibration.video.confidence(for_video),
            best=best,
            best_confidence=calibration.moment.confidence(for_moment),
            moments=moments,
        )

    def learn(self, curve: "Curve") -> Traits:
        """Find out what no question changes in a video, see serve.search.traits.

        Of a file the catalog knows it, unless an older program indexed it, or the library was calibrated since. Else it
        is worked out block by block, of vectors that become float32 but once.

        Returns:
            What captions of anything score on it; for a file that outlasts its frames in memory.
        """
        video, frames = curve.video, curve.frames
        whole, blocks = frames.traits, frames.blocks.values()
        known = whole if video.is_live else self.traits.get(video.row)
        if whole.changes is None and not video.is_live and (stored := self.catalog.traits(video.row)) is not None:
            whole.changes = changes_of(frames.epochs, frames.pts_seconds, stored.change_strengths)
            for block in blocks:  # one: a file's frames are not cut
                block.traits.changes = whole.changes
            if stored.captions == self.captions.key:
                known.generic = stored.generic
        if whole.changes is not None and known.generic:
            return known
        for block in blocks:
            traits = block.traits
            lacks_pools = not known.generic and not traits.pools and len(block.vectors) > 0
            if traits.changes is not None and not lacks_pools:
                continue
            embeddings = block.embeddings()
            if traits.changes is None:  # of a live video block by block, so that none is where two blocks meet
                traits.changes = picture_changes(embeddings)
            if lacks_pools:
                traits.pools = self.captions.pool(embeddings.vectors)
        if whole.changes is None:
            whole.changes = joined([block.traits.changes for block in blocks if block.traits.changes is not None])
        if not known.generic:
            known.generic = self.captions.statistics([block.traits.pools for block in blocks if len(block.vectors)])
        return known

    def forget(self, rows: Iterable[int]) -> None:
        """Let go of videos that are gone."""
        self.frames.discard(rows)
        self.traits.discard(rows)

    def moments(self, curves: Sequence["Curve"]) -> list[tuple[ScoredSpan, ...]]:
        """Read curves that were learnt from; a video that shows one thing from end to end is one moment."""
        scores = [
            Scores(
                pts_seconds=curve.frames.pts_seconds,
                scores=curve.values,
                epochs=curve.frames.epochs,
                duration_seconds=curve.video.duration_seconds,
                changes=curve.frames.traits.changes or NO_CHANGES,
            )
            for curve in curves
        ]
        found = find_all_moments(scores, self.config)
        return [admitted(curve, each or whole(curve)) for curve, each in zip(curves, found, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How near each frame of one video is to a question."""

    video: Video
    frames: VideoFrames
    values: NDArray[np.float32]  # (F,), de-biased
    shows_excluded: NDArray[np.bool_] | None  # (F,), True: it shows more of the exclusion than of the question


def whole(curve: Curve) -> list[ScoredSpan]:
    """Return a video off whose curve nothing is read as one moment, if it is of one epoch."""
    frames, video = curve.frames, curve.video
    if frames.epochs[0] != frames.epochs[-1]:
        return []
    best = int(np.argmax(curve.values))
    first = float(frames.pts_seconds[0]) if video.is_live else 0.0  # its old end may be gone
    span = TimeSpan(start_seconds=first, end_seconds=video.duration_seconds)
    peak_seconds, peak = float(frames.pts_seconds[best]), float(curve.values[best])
    return [ScoredSpan(span=span, score=0.0, peak_seconds=peak_seconds, peak=peak)]


def admitted(curve: Curve, moments: Sequence[ScoredSpan]) -> tuple[ScoredSpan, ...]:
    """Leave out moments that show more of the exclusion than of the question."""
    excluded, times = curve.shows_excluded, curve.frames.pts_seconds
    return tuple(
        moment
        for moment in moments
        if excluded is None or excluded[within(times, moment.span)].mean() < EXCLUDED_FRAMES
    )


def unjudged(score: float, curve: Curve) -> ScoredVideo:
    """Return a video too far down the list for the no-match test."""
    return ScoredVideo(video=curve.video, score=score, confidence=0.0, best=0.0, best_confidence=0.0, moments=())


def within(times: NDArray[np.float64], span: TimeSpan) -> slice:
    """Return where the times of a span are; where none is, the one before it, or the first."""
    first, last = (int(n) for n in np.searchsorted(times, (span.start_seconds, span.end_seconds)))
    return slice(first, last) if first < last else slice(max(first - 1, 0), max(first, 1))


def encode_text(
    encode: Callable[[Sequence[str]], NDArray[np.float32]], templates: Sequence[str], text: str
) -> NDArray[np.float32]:
    """Return float32 (D,), unit: the mean of a question's vectors in the sentences of `templates`."""
    summed = encode(prompts(templates, text)).sum(axis=0)
    return np.asarray(summed / np.linalg.norm(summed), np.float32)


def prompts(templates: Sequence[str], text: str) -> list[str]:
    """Put a question into each of some sentences."""
    return [template.format(text) for template in templates]


def z_score(score: float, mean: float, spread: float) -> float:
    """Compare a question's score on one video with those of captions that describe anything at all."""
    return (score - mean) / max(spread, 1e-6)
