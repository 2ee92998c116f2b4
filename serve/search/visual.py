"""VisualChannel: scores the frames of videos against a question, and finds moments on each video's curve of scores.

A frame's score is the inner product of its vector with the question's, from which a share of the mean of captions of
anything is subtracted (serve.search.traits): the score is de-biased. serve.search.engine asks the channel.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from encoders.batching import TextVectors
from encoders.calibration import Calibration
from encoders.clip import VisualEncoder
from serve.catalog.catalog import Catalog
from serve.index.nearest import NearestIndex
from serve.search.caches import RowCache
from serve.search.evidence import ScoredVideo, VisualQuery, WeighedVideo, judge_videos, z_score, z_scores
from serve.search.pooling import Traits, softmax_mean
from serve.search.traits import CaptionBank
from serve.search.video_rows import FrameReader, VideoFrames
from serve.values import Video
from temporal.config import MomentConfig
from temporal.moments.moments import Scores, find_all_moments
from temporal.moments.shots import NO_CHANGES, Changes, changes_of, join_changes, picture_changes
from temporal.values import ScoredSpan, TimeSpan

SEGMENT_COUNT = 512  # nearest segments; their videos are scored frame by frame
VIDEO_COUNT = 200  # videos scored frame by frame for one question (field practice: exact re-score of the top 200)
CACHED_TRAITS_COUNT = 200_000  # videos whose traits stay in memory: about 1 KB each
JUDGED_COUNT = 20  # best videos, for which moments and confidences are worth their cost
AVERAGED_COUNT = 256  # frames of a moment whose mean is taken: evenly spaced ones of a longer moment
# Share of a frame's similarity to the exclusion, beyond that of captions of anything, that is taken from its score.
# (Field practice; encoders know no "not", so exclusion is arithmetic.)
EXCLUDED_SHARE = 1.0
EXCLUDED_FRAMES = 0.5  # a moment is left out if this share of its frames shows more of the exclusion than the question


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameScores:
    """The score of each frame of one video for a question."""

    video: Video
    frames: VideoFrames
    values: NDArray[np.float32]  # (F,), de-biased
    shows_excluded: NDArray[np.bool_] | None  # (F,), True: shows more of the exclusion than of the question


class VisualChannel:
    """Finds videos and moments by their frames. Any number of threads may ask."""

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
        """Take what a search uses, and encode the captions of anything.

        Args:
            texts: Encodes texts as the encoder does; shared with the speech channel if both have the same encoder.
            index: The index of segments.
            cache_bytes: Frames that stay in memory.
        """
        self.texts, self.calibration = texts, calibration
        self._catalog, self.encoder, self._index, self._config = catalog, encoder, index, config
        self.frames = FrameReader(catalog, cache_bytes)
        # Traits of files, which stay in memory longer than the frames. Those of a live video change with its frames.
        self._traits: RowCache[int, Traits] = RowCache(lambda *_: Traits(), lambda traits: 1, CACHED_TRAITS_COUNT)
        self._captions = CaptionBank(encoder, calibration)
        self.bank = self._captions.vectors  # encoded now: that takes longer than a question
        # One BLAS thread: one video's product is small, so a second thread costs more in waiting than it brings, and
        # questions run in threads of their own. Set for the whole process: if each question set and reset the limit,
        # one would reset it during another.
        threadpool_limits(limits=1, user_api="blas")

    def encode_text(self, text: str) -> NDArray[np.float32]:
        """Return float32 (D,), unit length: the mean over the encoder's prompt templates."""
        return encode_text(self.texts.encode, self.calibration.templates, text)

    def prompts_of(self, text: str) -> list[str]:
        """Return the texts that encode_text() encodes."""
        return fill_templates(text, self.calibration.templates)

    def encode_picture(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (D,), unit length, of a picture, uint8 (H, W, 3) at the encoder's input size."""
        return np.asarray(self.encoder.encode_frames(pixels[None])[0])

    def average_frames(self, video: Video, span: TimeSpan) -> NDArray[np.float32] | None:
        """Return the mean vector of the frames in a span, or the nearest frame, float32 (D,), unit length.

        None for a video without frames.
        """
        frames = self.frames.get(video.row, video.version)
        if not len(frames.pts_seconds):
            return None
        total = frames.vectors.sum(_frames_within(span, frames.pts_seconds))
        return np.asarray(total / np.linalg.norm(total), np.float32)

    def score_videos(
        self,
        query: VisualQuery,
        videos: Sequence[Video],
        *,
        everywhere: bool = False,
        excluded: NDArray[np.float32] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> list[ScoredVideo]:
        """Return the videos that may show what the query asks for, best first, with their moments.

        Args:
            query: What to look for.
            everywhere: Whether `videos` are all videos of the library.
            excluded: float32 (D,), unit length, of the exclusion. Videos and moments that show more of it than of the
                query are left out.
            check: Called between videos; an exception that it raises ends the search.
        """
        curves = self._score_curves(query, self._choose_videos(query.vector, videos, everywhere), excluded, check)
        weighed = self._weigh(query, curves[:JUDGED_COUNT], check)
        judged = judge_videos(weighed, query, len(videos), self._captions, self.calibration)
        return judged + [ScoredVideo(video=curve.video, score=score) for score, curve in curves[JUDGED_COUNT:]]

    def weigh_videos(self, query: VisualQuery, videos: Sequence[Video]) -> list[WeighedVideo]:
        """Return the evidence of each of some videos by itself, best first; for `kinodex calibrate`."""
        return self._weigh(query, self._score_curves(query, videos, None, lambda: None), lambda: None)

    def generality(self, text: NDArray[np.float32]) -> float:
        """Return the generality (encoders.calibration.Evidence) of a text's vector (D,)."""
        return float(self._captions.direction @ text)

    def _score_curves(
        self,
        query: VisualQuery,
        videos: Sequence[Video],
        excluded: NDArray[np.float32] | None,
        check: Callable[[], None],
    ) -> list[tuple[float, FrameScores]]:
        """Return the score and the curve of each video that has frames, best first."""
        curves = []
        for video in videos:
            check()
            if (curve := self.score_frames(query.vector, video, excluded)) is not None:
                curves.append((float(softmax_mean(curve.values, self.calibration.video_temperature)), curve))
        curves.sort(key=lambda entry: -entry[0])
        return curves

    def _weigh(
        self, query: VisualQuery, curves: Sequence[tuple[float, FrameScores]], check: Callable[[], None]
    ) -> list[WeighedVideo]:
        """Find the moments on each curve, and measure the evidence."""
        traits = []
        for _, curve in curves:
            check()
            traits.append(self._find_traits(curve))
        check()
        moments = self._find_moments([curve for _, curve in curves])
        return [
            self._weigh_video(query, score, curve, video_traits, video_moments)
            for (score, curve), video_traits, video_moments in zip(curves, traits, moments, strict=True)
        ]

    def score_frames(
        self, query: NDArray[np.float32], video: Video, excluded: NDArray[np.float32] | None
    ) -> FrameScores | None:
        """Score every frame of a video; return None if it has no frames, or all show more of the exclusion."""
        frames = self.frames.get(video.row, video.version)
        vectors = frames.vectors
        if not len(vectors):
            return None
        values = vectors.dot(query - self._captions.bias)
        if excluded is None:
            return FrameScores(video=video, frames=frames, values=values, shows_excluded=None)
        unwanted: NDArray[np.float32] = np.maximum(vectors.dot(excluded - self._captions.direction), 0)
        shows_excluded = unwanted > values
        if shows_excluded.all():
            return None
        return FrameScores(
            video=video, frames=frames, values=values - EXCLUDED_SHARE * unwanted, shows_excluded=shows_excluded
        )

    def changes_along(self, curve: FrameScores) -> Changes:
        """Return the changes of the picture in a video that was scored."""
        self._find_traits(curve)
        return curve.frames.traits.changes or NO_CHANGES

    def forget(self, rows: Iterable[int]) -> None:
        """Drop deleted videos from memory."""
        gone = set(rows)
        self.frames.discard(gone)
        self._traits.discard(gone.__contains__)

    def _choose_videos(self, query: NDArray[np.float32], videos: Sequence[Video], everywhere: bool) -> list[Video]:
        """Return the videos to score frame by frame: all of a small library, else those of the nearest segments."""
        if len(videos) <= VIDEO_COUNT:
            return list(videos)
        by_row = {video.row: video for video in videos}
        rows = self._index.videos(query, SEGMENT_COUNT, rows=None if everywhere else list(by_row))
        return [by_row[row] for row in rows[:VIDEO_COUNT]]

    def _find_traits(self, curve: FrameScores) -> Traits:
        """Find the traits of a video (serve.search.traits): in memory, in the catalog, or by computing them.

        The catalog has those of a file, unless an older program indexed the file or the library was calibrated since.
        They are computed block by block, and each block's vectors become float32 only once.

        Returns:
            Traits with the captions' scores on the video. For a file, these stay in memory longer than its frames.
        """
        video, frames = curve.video, curve.frames
        whole, blocks = frames.traits, frames.blocks.values()
        traits = whole if video.is_live else self._traits.get(video.row)
        if whole.changes is None and not video.is_live and (stored := self._catalog.traits(video.row)) is not None:
            whole.changes = changes_of(frames.epochs, frames.pts_seconds, stored.change_strengths)
            for block in blocks:  # a file has one block
                block.traits.changes = whole.changes
            if stored.captions == self._captions.key:
                traits.caption_scores = stored.caption_scores
        if whole.changes is not None and traits.caption_scores:
            return traits
        for block in blocks:
            lacks_pool = not traits.caption_scores and block.traits.pool is None and len(block.vectors) > 0
            if block.traits.changes is not None and not lacks_pool:
                continue
            embeddings = block.embeddings()
            if block.traits.changes is None:  # within blocks: no change is found where two blocks of a stream meet
                block.traits.changes = picture_changes(embeddings)
            if lacks_pool:
                block.traits.pool = self._captions.pool(embeddings.vectors)
        if whole.changes is None:
            whole.changes = join_changes([block.traits.changes for block in blocks if block.traits.changes is not None])
        if not traits.caption_scores:
            traits.caption_scores = self._captions.statistics(
                [block.traits.pool for block in blocks if block.traits.pool is not None]
            )
        return traits

    def _find_moments(self, curves: Sequence[FrameScores]) -> list[tuple[ScoredSpan, ...]]:
        """Return the moments on each curve, after _find_traits(). A video that shows one thing throughout is one."""
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
        moments = find_all_moments(scores, self._config)
        return [
            _drop_excluded(curve, each or _make_whole_span(curve)) for curve, each in zip(curves, moments, strict=True)
        ]

    def _weigh_video(
        self, query: VisualQuery, score: float, curve: FrameScores, traits: Traits, moments: tuple[ScoredSpan, ...]
    ) -> WeighedVideo:
        """Measure what one video and its moments say for themselves."""
        assert traits.caption_scores is not None  # the video has frames
        moment_score = float(softmax_mean(curve.values, self.calibration.moment_temperature))
        own = likeness = [0.0] * len(moments)
        sums = _sum_frames(curve, moments) if moments else np.zeros((0, len(query.vector)), np.float32)
        if query.text is not None and moments:
            own = z_scores(sums, query.text, self._captions)
        if query.picture is not None and moments:
            best = np.searchsorted(curve.frames.pts_seconds, [moment.peak_seconds for moment in moments])
            ordered, places = np.unique(best, return_inverse=True)  # take() wants them in order of time
            likeness = (curve.frames.vectors.take(ordered) @ query.picture)[places].tolist()
        return WeighedVideo(
            video=curve.video,
            score=score,
            moment_score=moment_score,
            frame_count=len(curve.frames),
            z=z_score(moment_score, *traits.caption_scores),
            moments=moments,
            own=tuple(own),
            pictures=sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6),
            likeness=tuple(likeness),
        )


def encode_text(
    encode: Callable[[Sequence[str]], NDArray[np.float32]], templates: Sequence[str], text: str
) -> NDArray[np.float32]:
    """Return float32 (D,), unit length: the mean vector of a text in each of the templates."""
    summed = encode(fill_templates(text, templates)).sum(axis=0)
    return np.asarray(summed / np.linalg.norm(summed), np.float32)


def fill_templates(text: str, templates: Sequence[str]) -> list[str]:
    """Return a text in each of the templates."""
    return [template.format(text) for template in templates]


def _sum_frames(curve: FrameScores, moments: Sequence[ScoredSpan]) -> NDArray[np.float32]:
    """Return the sum of the frames of each of M moments, float32 (M, D): their mean picture, but for its length."""
    sums = []
    for moment in moments:
        inside = _frames_within(moment.span, curve.frames.pts_seconds)
        if inside.stop - inside.start <= AVERAGED_COUNT:
            sums.append(curve.frames.vectors.sum(inside))
        else:
            positions = np.linspace(inside.start, inside.stop - 1, AVERAGED_COUNT).astype(np.int64)
            sums.append(curve.frames.vectors.take(positions).sum(axis=0))
    return np.stack(sums)


def _make_whole_span(curve: FrameScores) -> list[ScoredSpan]:
    """Return a whole video as one moment, if it has one epoch."""
    frames, video = curve.frames, curve.video
    if frames.epochs[0] != frames.epochs[-1]:
        return []
    best = int(np.argmax(curve.values))
    first = float(frames.pts_seconds[0])
    if first < 1.0 and not video.is_live:  # a second of sound alone is no part of its own; live videos lose old parts
        first = 0.0
    span = TimeSpan(start_seconds=first, end_seconds=video.duration_seconds)
    peak_seconds, peak = float(frames.pts_seconds[best]), float(curve.values[best])
    return [ScoredSpan(span=span, score=0.0, peak_seconds=peak_seconds, peak=peak)]


def _drop_excluded(curve: FrameScores, moments: Sequence[ScoredSpan]) -> tuple[ScoredSpan, ...]:
    """Leave out moments in which enough frames show more of the exclusion than of the question."""
    excluded, times = curve.shows_excluded, curve.frames.pts_seconds
    return tuple(
        moment
        for moment in moments
        if excluded is None or excluded[_frames_within(moment.span, times)].mean() < EXCLUDED_FRAMES
    )


def _frames_within(span: TimeSpan, times: NDArray[np.float64]) -> slice:
    """Return which frames are in a span; if none is, the frame before it, or the first frame."""
    first, last = (int(n) for n in np.searchsorted(times, (span.start_seconds, span.end_seconds)))
    return slice(first, last) if first < last else slice(max(first - 1, 0), max(first, 1))
