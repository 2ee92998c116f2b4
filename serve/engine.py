"""The query engine: a question -> its channels -> one ranked list of moments or videos, each with a verdict.

Channels are ranked apart and fused by weighted reciprocal ranks, each gated by its channel's own confidence: equal
fusion ruins the first place whenever one channel is noise (field practice; RRF: Cormack et al., SIGIR 2009).
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import FILE as CALIBRATION_FILE
from encoders.calibration import MATCH_CONFIDENCE, WEAK_CONFIDENCE, Calibration, read_calibrations
from encoders.clip import VisualEncoder
from encoders.errors import NoVisualEncoder
from encoders.values import Utterance
from serve.catalog import Catalog
from serve.encoders import Encoders
from serve.errors import DataDirectoryInvalid
from serve.index import VectorIndex
from serve.intent import Intent, read_intent
from serve.seen import Seen, VisualChannel
from serve.settings import Settings
from serve.spoken import SpeechChannel, Spoken
from serve.values import Answer, Moment, Query, Verdict, Video, VideoAnswer
from temporal.moments import tiou
from temporal.values import ScoredSpan, TimeSpan

RANK_CONSTANT = 60  # k of reciprocal rank fusion, as published
SAME_MOMENT_TIOU = 0.3  # a seen and a spoken span that overlap this much are one moment
TRUSTED_COUNT = 10  # first videos of the visual list, the best of which says how far the list is trusted
VIDEO_MOMENT_COUNT = 3  # moments listed with each video of a search
CACHED_TRANSCRIPT_COUNT = 256  # videos whose utterances stay in memory: about 1 MB an hour of speech


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A span of one video on its way to being a moment."""

    video: Video
    span: TimeSpan
    seen: ScoredSpan | None = None
    seen_confidence: float = 0.0
    spoken: Spoken | None = None
    ranks: dict[str, int] = field(default_factory=dict)  # channel -> place in its list, from 1


class Engine:
    """Answers questions about one data directory."""

    def __init__(self, catalog: Catalog, encoders: Encoders, directory: Path, settings: Settings) -> None:
        self.catalog, self.encoders, self.settings = catalog, encoders, settings
        fingerprint = encoders.space.fingerprint
        self.segments = VectorIndex(directory, "segments", fingerprint)
        self.utterances_index = VectorIndex(directory, "utterances", fingerprint)
        self.transcripts: OrderedDict[int, list[Utterance]] = OrderedDict()
        self.speech = SpeechChannel(catalog, encoders.sentence, self.utterances_index, self.utterances)
        self.visual: VisualChannel | None = None
        if (visual := encoders.visual) is not None:
            calibration = calibration_in(directory, visual)
            self.visual = VisualChannel(catalog, visual, self.segments, settings.moments, calibration)

    def moments(self, query: Query) -> Answer:
        """Return the moments that answer, best first, at most `query.limit`, over all the videos asked about."""
        intent = intent_of(query)
        with self.catalog.snapshot():
            videos = self.refreshed(query)
            candidates, _ = self.candidates(query, intent, videos)
            found = self.ranked(candidates, intent, query.limit)
        return Answer(moments=tuple(found), degraded_channels=self.degraded(query))

    def search(self, query: Query) -> Answer:
        """Return the videos that answer, best first, at most `query.limit`, each with its best moments."""
        intent = intent_of(query)
        with self.catalog.snapshot():
            videos = self.refreshed(query)
            candidates, seen = self.candidates(query, intent, videos)
            by_video: dict[int, list[Candidate]] = defaultdict(list)
            for candidate in candidates:
                by_video[candidate.video.row].append(candidate)
            answers = []
            # One weight for the whole list, so that its order stands: its best answers are as likely as the channel is.
            visual_trust = max((one.confidence for one in seen[:TRUSTED_COUNT]), default=0.0)
            seen_rank = {found.video.row: (rank, found) for rank, found in enumerate(seen, 1)}
            for video in videos:
                mine = by_video.get(video.row, [])
                if not mine and video.row not in seen_rank:
                    continue
                answers.append(self.video_answer(video, mine, seen_rank.get(video.row), visual_trust, intent))
        answers.sort(key=lambda answer: (-answer.score, answer.uri))
        return Answer(videos=tuple(answers[: query.limit]), degraded_channels=self.degraded(query))

    def refreshed(self, query: Query) -> list[Video]:
        """Bring the indexes up to the catalog and return the videos asked about."""
        self.segments.refresh(self.catalog)
        self.utterances_index.refresh(self.catalog)
        fingerprint = self.encoders.space.fingerprint
        videos = self.catalog.videos(collection=query.collection, video_ids=query.video_ids)
        ready = self.catalog.ready_rows(fingerprint)
        return [video for video in videos if video.row in ready]

    def degraded(self, query: Query) -> tuple[str, ...]:
        """Name the channels that were asked for and are not to be had here."""
        missing = []
        if query.channel != "speech" and self.visual is None:
            missing.append("visual")
        if query.channel != "visual" and self.encoders.space.speech == "none":
            missing.append("speech")
        return tuple(missing)

    def utterances(self, row: int) -> list[Utterance]:
        """Return one video's utterances, from memory when it was asked about lately."""
        if row not in self.transcripts:
            self.transcripts[row] = self.catalog.utterances(row)
        self.transcripts.move_to_end(row)
        while len(self.transcripts) > CACHED_TRANSCRIPT_COUNT:
            self.transcripts.popitem(last=False)
        return self.transcripts[row]

    # ---- candidates ----

    def candidates(self, query: Query, intent: Intent, videos: Sequence[Video]) -> tuple[list[Candidate], list[Seen]]:
        """Return every span any channel proposes, ranked within its channel, and the visual ranking of videos."""
        by_row = {video.row: video for video in videos}
        spoken: list[Candidate] = []
        if intent.speech_weight > 0 and query.text.strip() and by_row:
            everywhere = query.collection is None and not query.video_ids
            found = self.speech.ask(query.text, intent, None if everywhere else list(by_row))
            found = [one for one in found if one.row in by_row]
            spoken = [Candidate(video=by_row[one.row], span=one.span, spoken=one) for one in found]
            rank(spoken, "dense", [-one.cosine for one in found])
            rank(
                [c for c in spoken if c.spoken and c.spoken.coverage > 0],
                "lexical",
                [-one.coverage for one in found if one.coverage > 0],
            )
        seen: list[Seen] = []
        if intent.visual_weight > 0 and self.visual is not None and by_row:
            seen = self.visual.ask(self.visual_query(query, intent), videos)
        shown = [
            Candidate(video=one.video, span=moment.span, seen=moment, seen_confidence=one.best_confidence)
            for one in seen
            for moment in one.moments
        ]
        best = {one.video.row: one.best for one in seen}
        rank(shown, "visual", [-(best[c.video.row] + c.seen.score) for c in shown if c.seen is not None])
        return merged(shown, spoken, intent), seen

    def visual_query(self, query: Query, intent: Intent) -> NDArray[np.float32]:
        """Return the vector to look for: of the text, of the image, or midway between both."""
        if self.visual is None:
            raise NoVisualEncoder("nothing here can see")
        parts = []
        if query.text.strip():
            parts.append(self.visual.text_vector(intent.text))
        if query.image is not None:
            parts.append(self.visual.image_vector(query.image))
        total = np.sum(parts, axis=0)
        return np.asarray(total / np.linalg.norm(total), np.float32)

    # ---- ranking ----

    def ranked(self, candidates: Iterable[Candidate], intent: Intent, limit: int) -> list[Moment]:
        """Return the best candidates as moments, best first; of the others nothing is read."""
        scored = [(fused(c.ranks, gates(c.seen_confidence, c.spoken, intent)), c) for c in candidates]
        scored.sort(key=lambda entry: (-entry[0], entry[1].video.uri, entry[1].span.start_seconds))
        return [self.moment(candidate, score, intent) for score, candidate in scored[:limit]]

    def moment(self, candidate: Candidate, score: float, intent: Intent) -> Moment:
        confidence = agreed(candidate.seen_confidence, candidate.spoken, intent)
        said = [
            utterance
            for utterance in self.utterances(candidate.video.row)
            if utterance.start_seconds < candidate.span.end_seconds
            and utterance.end_seconds > candidate.span.start_seconds
        ]
        return Moment(
            video_id=candidate.video.video_id,
            uri=candidate.video.uri,
            start_seconds=candidate.span.start_seconds,
            end_seconds=candidate.span.end_seconds,
            score=score,
            confidence=confidence,
            verdict=verdict_of(confidence),
            visual_score=candidate.seen.peak if candidate.seen is not None else None,
            speech_score=candidate.spoken.cosine if candidate.spoken is not None else None,
            transcript=" ".join(utterance.text for utterance in said),
            matched_words=candidate.spoken.matched_words if candidate.spoken is not None else (),
            best_frame_seconds=self.best_frame(candidate),
        )

    def best_frame(self, candidate: Candidate) -> float | None:
        """Return the time of the picture to show: the best seen one, else the one in the middle of the span."""
        if candidate.seen is not None:
            return candidate.seen.peak_seconds
        middle = (candidate.span.start_seconds + candidate.span.end_seconds) / 2
        thumbnail = self.catalog.thumbnail(candidate.video.row, middle)
        return thumbnail[0] if thumbnail is not None else None

    def video_answer(
        self,
        video: Video,
        candidates: Sequence[Candidate],
        seen: tuple[int, Seen] | None,
        visual_trust: float,
        intent: Intent,
    ) -> VideoAnswer:
        """Fuse a video's own visual rank, weighed by the trust in that list, with those of the best said in it."""
        ranks: dict[str, int] = {}
        best_spoken: Spoken | None = None
        for candidate in candidates:
            for channel in ("dense", "lexical"):
                if channel in candidate.ranks:
                    ranks[channel] = min(ranks.get(channel, candidate.ranks[channel]), candidate.ranks[channel])
            if candidate.spoken and (best_spoken is None or candidate.spoken.confidence > best_spoken.confidence):
                best_spoken = candidate.spoken
        seen_confidence = 0.0
        if seen is not None:
            ranks["visual"], seen_confidence = seen[0], seen[1].confidence
        confidence = agreed(seen_confidence, best_spoken, intent)
        return VideoAnswer(
            video_id=video.video_id,
            uri=video.uri,
            score=fused(ranks, gates(visual_trust, best_spoken, intent)),
            confidence=confidence,
            verdict=verdict_of(confidence),
            moments=tuple(self.ranked(candidates, intent, VIDEO_MOMENT_COUNT)),
        )


def intent_of(query: Query) -> Intent:
    """Read the text's intent; an image alone is a visual question."""
    if query.text.strip():
        return read_intent(query.text, query.channel)
    return Intent(text="", phrases=(), visual_weight=1.0, speech_weight=0.0)


def rank(candidates: Sequence[Candidate], channel: str, keys: Sequence[float]) -> None:
    """Write each candidate's place in a channel's list, from 1, smallest key first."""
    for place, n in enumerate(np.argsort(np.asarray(keys), kind="stable"), 1):
        candidates[int(n)].ranks[channel] = place


def merged(shown: Sequence[Candidate], spoken: Sequence[Candidate], intent: Intent) -> list[Candidate]:
    """Make one candidate of a seen and a spoken span that overlap, with the more trusted channel's edges."""
    left = list(shown)
    together = []
    for heard in spoken:
        assert heard.spoken is not None
        partners = [c for c in left if c.video.row == heard.video.row and tiou(c.span, heard.span) >= SAME_MOMENT_TIOU]
        if not partners:
            together.append(heard)
            continue
        sight = max(partners, key=lambda c: tiou(c.span, heard.span))
        left.remove(sight)
        by_sight = intent.visual_weight * sight.seen_confidence > intent.speech_weight * heard.spoken.confidence
        together.append(
            replace(
                heard,
                span=sight.span if by_sight else heard.span,
                seen=sight.seen,
                seen_confidence=sight.seen_confidence,
                ranks={**sight.ranks, **heard.ranks},
            )
        )
    return together + left


def gates(seen_confidence: float, spoken: Spoken | None, intent: Intent) -> dict[str, float]:
    """Weigh each channel by what the question asks for and by how far the channel trusts its own answer."""
    return {
        "visual": intent.visual_weight * seen_confidence,
        "dense": intent.speech_weight * (spoken.dense_confidence if spoken else 0.0),
        "lexical": intent.speech_weight * (spoken.lexical_confidence if spoken else 0.0),
    }


def fused(ranks: dict[str, int], weights: dict[str, float]) -> float:
    """Sum the channels' gated reciprocal ranks; 1.0 is first place, fully trusted, in every channel."""
    return sum(weights[channel] * (RANK_CONSTANT + 1) / (RANK_CONSTANT + place) for channel, place in ranks.items())


def agreed(seen_confidence: float, spoken: Spoken | None, intent: Intent) -> float:
    """Return the confidence 0..1 that the question is answered, by the channels it asks for."""
    heaviest = max(intent.visual_weight, intent.speech_weight)
    visual = seen_confidence * intent.visual_weight / heaviest
    speech = (spoken.confidence if spoken else 0.0) * intent.speech_weight / heaviest
    return max(visual, speech)


def calibration_in(directory: Path, encoder: VisualEncoder) -> Calibration:
    """Return what `kinodex calibrate` measured here for this encoder, else the encoder's own.

    Raises:
        DataDirectoryInvalid: If the file is damaged.
    """
    try:
        return read_calibrations(directory / CALIBRATION_FILE).get(encoder.fingerprint, encoder.calibration)
    except (ValueError, OSError) as error:
        raise DataDirectoryInvalid(str(directory), str(error)) from error


def verdict_of(confidence: float) -> Verdict:
    if confidence >= MATCH_CONFIDENCE:
        return Verdict.MATCH
    return Verdict.WEAK if confidence >= WEAK_CONFIDENCE else Verdict.NO_MATCH
