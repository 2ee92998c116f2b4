"""AnswerReader: reads a page of a ranking's entries as moments or videos, for serve.search.engine."""

from collections.abc import Mapping, Sequence

from serve.catalog.catalog import Catalog
from serve.search.caches import RowCache
from serve.search.ranking import Candidate, RankedMoment, RankedVideo
from serve.search.verdict import verdict_of
from serve.search.video_rows import Transcript
from serve.values import Moment, VideoAnswer
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
        with self._catalog.snapshot():
            while start < len(entries) and len(moments) < count:
                part = entries[start : start + count - len(moments)]
                versions = self._catalog.versions({entry.candidate.video.row for entry in part})
                moments += self._read_present(part, versions)
                start += len(part)
        return tuple(moments), start

    def read_videos(
        self, entries: Sequence[RankedVideo], start: int, count: int
    ) -> tuple[tuple[VideoAnswer, ...], int]:
        """Return at most `count` videos from entry `start` on, and where the next page starts; see read_moments()."""
        answers: list[VideoAnswer] = []
        with self._catalog.snapshot():
            while start < len(entries) and len(answers) < count:
                part = entries[start : start + count - len(answers)]
                versions = self._catalog.versions({entry.video.row for entry in part})
                answers += [self._read_video(entry, versions) for entry in part if entry.video.row in versions]
                start += len(part)
        return tuple(answers), start

    def _read_video(self, entry: RankedVideo, versions: Mapping[int, int]) -> VideoAnswer:
        return VideoAnswer(
            video_id=entry.video.video_id,
            uri=entry.video.uri,
            score=entry.score,
            confidence=entry.confidence,
            verdict=verdict_of(entry.confidence),
            moments=tuple(self._read_present(entry.moments, versions)),
            collection=entry.video.collection,
        )

    def _read_present(self, entries: Sequence[RankedMoment], versions: Mapping[int, int]) -> list[Moment]:
        """Read the moments whose videos are there: `versions` has the present version of each such row."""
        return [
            self._read_moment(entry, versions[entry.candidate.video.row])
            for entry in entries
            if entry.candidate.video.row in versions
        ]

    def _read_moment(self, entry: RankedMoment, version: int) -> Moment:
        """Read a moment from the present version of its video: that of the ranking may be pruned."""
        candidate = entry.candidate
        video, span, passage = candidate.video, candidate.span, candidate.passage
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
