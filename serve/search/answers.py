"""AnswerReader: reads a page of a ranking's entries as moments or videos, for serve.search.engine."""

from collections.abc import Sequence
from contextlib import suppress

from serve.catalog.catalog import Catalog
from serve.errors import VideoNotFound
from serve.search.caches import RowCache
from serve.search.ranking import Candidate, RankedMoment, RankedVideo
from serve.search.verdict import verdict_of
from serve.search.video_rows import Transcript
from serve.values import Moment, Video, VideoAnswer
from temporal.window import overlaps


class AnswerReader:
    """Reads moments and videos in their present state: a page may be shown long after its ranking was made."""

    def __init__(self, catalog: Catalog, transcripts: RowCache[int, Transcript]) -> None:
        self._catalog, self._transcripts = catalog, transcripts

    def read_moments(self, entries: Sequence[RankedMoment], start: int, count: int) -> tuple[tuple[Moment, ...], int]:
        """Return at most `count` moments from entry `start` on, and the entry where the next page starts.

        Moments of deleted videos are left out; the page is filled up with later entries.
        """
        moments: list[Moment] = []
        for at in range(start, len(entries)):
            if len(moments) == count:
                return tuple(moments), at
            with suppress(VideoNotFound):
                moments.append(self._read_moment(entries[at]))
        return tuple(moments), len(entries)

    def read_videos(
        self, entries: Sequence[RankedVideo], start: int, count: int
    ) -> tuple[tuple[VideoAnswer, ...], int]:
        """Return at most `count` videos from entry `start` on, and where the next page starts; see read_moments()."""
        answers: list[VideoAnswer] = []
        for at in range(start, len(entries)):
            if len(answers) == count:
                return tuple(answers), at
            entry = entries[at]
            if not self._exists(entry.video):
                continue
            moments, _ = self.read_moments(entry.moments, 0, len(entry.moments))
            answers.append(
                VideoAnswer(
                    video_id=entry.video.video_id,
                    uri=entry.video.uri,
                    score=entry.score,
                    confidence=entry.confidence,
                    verdict=verdict_of(entry.confidence),
                    moments=moments,
                    collection=entry.video.collection,
                )
            )
        return tuple(answers), len(entries)

    def _exists(self, video: Video) -> bool:
        """Whether this row of a video, and not a later one of the same id, is still in the catalog."""
        videos = self._catalog.videos(collection=video.collection, video_ids=(video.video_id,))
        return any(each.row == video.row for each in videos)

    def _read_moment(self, entry: RankedMoment) -> Moment:
        """Raise VideoNotFound if the video was deleted."""
        candidate = entry.candidate
        video, span, passage = candidate.video, candidate.span, candidate.passage
        with self._catalog.snapshot():
            version = self._catalog.version(video.row)  # the present version; that of the ranking may be pruned
            best_frame_seconds = self._best_frame_seconds(candidate)
            transcript = self._transcripts.get(video.row, version).utterances
        return Moment(
            video_id=video.video_id,
            uri=video.uri,
            start_seconds=span.start_seconds,
            end_seconds=span.end_seconds,
            score=entry.score,
            confidence=entry.confidence,
            verdict=verdict_of(entry.confidence),
            visual_score=candidate.visual.peak if candidate.visual is not None else None,
            speech_score=passage.cosine if passage is not None else None,
            transcript=" ".join(utterance.text for utterance in transcript if overlaps(utterance, span)),
            matched_words=passage.matched_words if passage is not None else (),
            text_score=candidate.screen.cosine if candidate.screen is not None else None,
            matched_text=candidate.screen.matched if candidate.screen is not None else (),
            best_frame_seconds=best_frame_seconds,
            collection=video.collection,
            recorded_time=video.recorded_at(span.start_seconds),
            final=video.is_final_until(span.end_seconds),
        )

    def _best_frame_seconds(self, candidate: Candidate) -> float | None:
        """Return the time of the frame to show: the visual channel's best, else the nearest to the middle."""
        if candidate.visual is not None:
            return candidate.visual.peak_seconds
        middle = (candidate.span.start_seconds + candidate.span.end_seconds) / 2
        thumbnail = self._catalog.thumbnail(candidate.video.row, middle)
        return thumbnail[0] if thumbnail is not None else None
