"""From the places of a ranking to answers: what of each is to be shown, read when it is."""

from collections.abc import Sequence
from contextlib import suppress

from serve.catalog.catalog import Catalog
from serve.errors import VideoNotFound
from serve.search.caches import RowCache
from serve.search.ranking import Candidate, RankedMoment, RankedVideo, verdict_of
from serve.search.video_rows import Transcript
from serve.values import Moment, Video, VideoAnswer
from temporal.window import overlaps


class AnswerReader:
    """Reads moments and videos as they are by now: a page may come long after its ranking was made."""

    def __init__(self, catalog: Catalog, transcripts: RowCache[Transcript]) -> None:
        self.catalog, self.transcripts = catalog, transcripts

    def moments(self, places: Sequence[RankedMoment], start: int, count: int) -> tuple[tuple[Moment, ...], int]:
        """Return `count` places from `start` on as moments, and where the next page starts.

        What is gone by now is passed over, so that a page is full while there is more.
        """
        found: list[Moment] = []
        for at in range(start, len(places)):
            if len(found) == count:
                return tuple(found), at
            with suppress(VideoNotFound):
                found.append(self.moment(places[at]))
        return tuple(found), len(places)

    def videos(self, places: Sequence[RankedVideo], start: int, count: int) -> tuple[tuple[VideoAnswer, ...], int]:
        """Return `count` places from `start` on as answers, and where the next page starts; see moments()."""
        found: list[VideoAnswer] = []
        for at in range(start, len(places)):
            if len(found) == count:
                return tuple(found), at
            place = places[at]
            if not self.is_there(place.video):
                continue
            moments, _ = self.moments(place.moments, 0, len(place.moments))
            found.append(
                VideoAnswer(
                    video_id=place.video.video_id,
                    uri=place.video.uri,
                    score=place.score,
                    confidence=place.confidence,
                    verdict=verdict_of(place.confidence),
                    moments=moments,
                    collection=place.video.collection,
                )
            )
        return tuple(found), len(places)

    def is_there(self, video: Video) -> bool:
        """Whether this version of a video is still in the catalog."""
        found = self.catalog.videos(collection=video.collection, video_ids=(video.video_id,))
        return any(one.row == video.row for one in found)

    def moment(self, place: RankedMoment) -> Moment:
        candidate = place.candidate
        video, span = candidate.video, candidate.span
        with self.catalog.snapshot():
            version = self.catalog.version(video.row)  # by now, if it is still there: a page may come late
            best_frame_seconds = self.best_frame(candidate)
            transcript = self.transcripts.get(video.row, version).utterances
        said = [one for one in transcript if overlaps(one, span)]
        return Moment(
            video_id=video.video_id,
            uri=video.uri,
            start_seconds=span.start_seconds,
            end_seconds=span.end_seconds,
            score=place.score,
            confidence=place.confidence,
            verdict=verdict_of(place.confidence),
            visual_score=candidate.seen.peak if candidate.seen is not None else None,
            speech_score=candidate.spoken.cosine if candidate.spoken is not None else None,
            transcript=" ".join(utterance.text for utterance in said),
            matched_words=candidate.spoken.matched_words if candidate.spoken is not None else (),
            best_frame_seconds=best_frame_seconds,
            collection=video.collection,
            recorded_time=video.recorded_at(span.start_seconds),
            final=video.is_final_until(span.end_seconds),
        )

    def best_frame(self, candidate: Candidate) -> float | None:
        """Return the time of the picture to show: the best seen one, else the one in the middle of the span."""
        if candidate.seen is not None:
            return candidate.seen.peak_seconds
        middle = (candidate.span.start_seconds + candidate.span.end_seconds) / 2
        thumbnail = self.catalog.thumbnail(candidate.video.row, middle)
        return thumbnail[0] if thumbnail is not None else None
