"""Answers questions: intent -> candidates of each channel -> one ranking -> moments and videos, with a verdict.

Channels are ranked apart and fused by rank, because their scores have different scales. A channel's ranks count only
as far as the channel itself trusts its answer: on a question about pictures, speech still has a nearest sentence,
and its rank must not outweigh what was seen.

Any number of threads may ask. They share the indexes, which are brought up to the catalog between questions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.batching import TextVectors
from encoders.errors import NoVisualEncoder
from serve.catalog.catalog import Catalog
from serve.catalog.reader import only
from serve.catalog.spelling import content_terms, matches_term
from serve.encoder_set import Encoders
from serve.index import open_index
from serve.search.answers import AnswerReader
from serve.search.caches import ReadWriteLock, RowCache
from serve.search.intent import Intent
from serve.search.ranking import (
    Candidate,
    RankedMoment,
    RankedVideo,
    Ranking,
    by_score,
    first_of_each,
    merged,
    rank,
    whole_video,
)
from serve.search.speech import COSINE_MIDDLE, Passage, SpeechChannel, terms_of
from serve.search.target import Target, intent_of, is_example, mixed
from serve.search.traits import calibration_in
from serve.search.video_rows import Transcript, read_transcript
from serve.search.videos import SearchableVideos
from serve.search.visual import ScoredVideo, VisualChannel
from serve.settings import Settings
from serve.values import EVERYTHING, Answer, Moment, MomentReference, Query, Video, VideoAnswer
from temporal.values import TimeSpan
from temporal.window import overlaps

TRUSTED_COUNT = 10  # first videos of the visual list, the best of which says how far the list is trusted
VIDEO_MOMENT_COUNT = 3  # moments listed with each video of a search
CACHED_UTTERANCE_COUNT = 200_000  # that stay in memory, without their words


def no_check() -> None:
    """Never cancel a question."""


class Engine:
    """Answers questions about one data directory."""

    def __init__(self, catalog: Catalog, encoders: Encoders, directory: Path, settings: Settings) -> None:
        self.catalog, self.encoders, self.settings = catalog, encoders, settings
        self.fingerprint = encoders.space.fingerprint
        self.segment_index = open_index(directory, "segments", self.fingerprint, settings.index)
        self.utterance_index = open_index(directory, "utterances", self.fingerprint, settings.index)
        self.transcripts: RowCache[Transcript] = RowCache(
            partial(read_transcript, catalog), len, CACHED_UTTERANCE_COUNT
        )
        self.answers = AnswerReader(catalog, self.transcripts)
        self.sentences = TextVectors(encoders.sentence.encode)
        self.speech = SpeechChannel(catalog, self.sentences, self.utterance_index, self.said)
        self.visual: VisualChannel | None = None
        if (visual := encoders.visual) is not None:
            calibration = calibration_in(directory, visual)
            cache_bytes = settings.server.frame_cache_bytes
            texts = self.sentences if visual.sentence is encoders.sentence else TextVectors(visual.encode_texts)
            self.visual = VisualChannel(
                catalog, visual, texts, self.segment_index, settings.moments, calibration, cache_bytes=cache_bytes
            )
        self.encoding = ThreadPoolExecutor(thread_name_prefix="texts")
        self.lock = ReadWriteLock()  # written: the videos, and the indexes
        self.known = SearchableVideos(self.fingerprint)
        self.on_new_video: Callable[[Video], None] = lambda video: None  # told of each video that answers begin to see

    @property
    def state(self) -> tuple[str, int] | None:
        """Identity and generation of the catalog that is asked; None: not read yet."""
        return self.known.state

    @property
    def videos(self) -> dict[int, Video]:
        """By row, in the order of their URIs."""
        return self.known.by_row

    @property
    def by_id(self) -> dict[str, list[Video]]:
        return self.known.by_id

    # ---- answers, whole ----

    def moments(self, query: Query, pixels: NDArray[np.uint8] | None = None) -> Answer:
        """Return the moments that answer, best first, at most `query.limit`, over all the videos asked about.

        Args:
            pixels: The query's picture, uint8 (H, W, 3) RGB at the visual encoder's input size.
        """
        ranking = self.rank_moments(query, pixels)
        moments, _ = self.page_of_moments(ranking, 0, query.limit)
        return Answer(moments=moments, degraded_channels=ranking.degraded_channels)

    def search(self, query: Query, pixels: NDArray[np.uint8] | None = None) -> Answer:
        """Return the videos that answer, best first, at most `query.limit`, each with its best moments."""
        ranking = self.rank_videos(query, pixels)
        videos, _ = self.page_of_videos(ranking, 0, query.limit)
        return Answer(videos=videos, degraded_channels=ranking.degraded_channels)

    # ---- rankings ----

    def rank_moments(
        self, query: Query, pixels: NDArray[np.uint8] | None = None, check: Callable[[], None] = no_check
    ) -> Ranking[RankedMoment]:
        """Rank every moment that any channel proposes. Nothing of them is read yet.

        Args:
            check: Called again and again; what it raises ends the work.
        Raises:
            VideoNotFound: If an example's video is not there.
            NoVisualEncoder: If a picture is asked about, and nothing here can see.
        """
        with self.snapshot():
            candidates, _, target = self.candidates(query, pixels, check)
            ranked = by_score(candidates, target.intent)
        ranked = [one for one in ranked if one.confidence >= query.min_confidence]
        if query.max_moments_per_video is not None:
            ranked = first_of_each(ranked, query.max_moments_per_video)
        return Ranking(entries=tuple(ranked), degraded_channels=self.degraded(query))

    def rank_videos(
        self, query: Query, pixels: NDArray[np.uint8] | None = None, check: Callable[[], None] = no_check
    ) -> Ranking[RankedVideo]:
        """Rank every video that any channel proposes, each with its best moments; see rank_moments."""
        with self.snapshot():
            candidates, seen, target = self.candidates(query, pixels, check)
        mine: dict[int, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            mine[candidate.video.row].append(candidate)
        # One weight for the whole list, so that its order stands: its best answers are as likely as the channel is.
        visual_trust = max((one.confidence for one in seen[:TRUSTED_COUNT]), default=0.0)
        seen_rank = {found.video.row: (place, found) for place, found in enumerate(seen, 1)}
        videos = {candidate.video.row: candidate.video for candidate in candidates}
        videos |= {found.video.row: found.video for found in seen}
        count = query.max_moments_per_video or VIDEO_MOMENT_COUNT
        ranked = []
        for row, video in videos.items():
            check()
            score, confidence = whole_video(mine[row], seen_rank.get(row), visual_trust, target.intent)
            if confidence >= query.min_confidence:
                moments = tuple(by_score(mine[row], target.intent)[:count])
                ranked.append(RankedVideo(video=video, score=score, confidence=confidence, moments=moments))
        ranked.sort(key=lambda one: (-one.score, one.video.uri, one.video.row))
        return Ranking(entries=tuple(ranked), degraded_channels=self.degraded(query))

    def page_of_moments(self, ranking: Ranking[RankedMoment], start: int, count: int) -> tuple[tuple[Moment, ...], int]:
        """Read at most `count` moments of a ranking, from place `start` on (0 is the best).

        A moment whose video was deleted since the ranking is left out and does not count.

        Returns:
            The moments, and the place where the next page starts: len(ranking.entries) after the last page.
        """
        return self.answers.moments(ranking.entries, start, count)

    def page_of_videos(
        self, ranking: Ranking[RankedVideo], start: int, count: int
    ) -> tuple[tuple[VideoAnswer, ...], int]:
        """Read at most `count` videos of a ranking, each with its best moments; see page_of_moments()."""
        return self.answers.videos(ranking.entries, start, count)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let a question see one state: of the catalog, and of the indexes that were made from it."""
        with self.lock.reading(), self.catalog.snapshot():
            if self.is_fresh():
                yield
                return
        with ExitStack() as stack:

            def bring_up() -> None:
                stack.enter_context(self.catalog.snapshot())  # now: one from before the wait might be older than ours
                self.bring_up()

            with self.lock.writing_then_reading(bring_up):
                yield

    def is_fresh(self) -> bool:
        """Whether the indexes are those of the catalog as this thread sees it."""
        return self.state == (self.catalog.identity(), self.catalog.generation())

    def close(self) -> None:
        """Let go of the catalog, which is another's to close."""
        self.encoding.shutdown()
        self.segment_index.close()
        self.utterance_index.close()

    def refresh(self) -> None:
        """Bring the indexes up to the catalog, so that the next question need not."""
        with self.snapshot():
            pass

    def bring_up(self) -> None:
        if self.is_fresh():
            return
        self.segment_index.refresh(self.catalog)
        self.utterance_index.refresh(self.catalog)
        gone, found = self.known.refresh(self.catalog)
        self.transcripts.discard(gone)
        if self.visual is not None:
            self.visual.forget(gone)
        for video in found:
            self.on_new_video(video)

    def degraded(self, query: Query) -> tuple[str, ...]:
        """Name the channels that were asked for and are not to be had here."""
        missing = []
        if query.channel != "speech" and self.visual is None:
            missing.append("visual")
        if query.channel != "visual" and self.encoders.space.speech == "none":
            missing.append("speech")
        return tuple(missing)

    def version(self, row: int) -> int:
        """Return which version of a video is asked."""
        return self.videos[row].version if row in self.videos else 0

    def said(self, row: int) -> Transcript:
        """Return what is said in the version of a video that is asked."""
        return self.transcripts.get(row, self.version(row))

    # ---- candidates ----

    def candidates(
        self, query: Query, pixels: NDArray[np.uint8] | None, check: Callable[[], None]
    ) -> tuple[list[Candidate], list[ScoredVideo], Target]:
        """Return every span any channel proposes, ranked within its channel, and the visual ranking of videos."""
        asked = query.filter
        # Texts are encoded in another thread, which needs no catalog, while this one looks for their words.
        intent = intent_of(query)
        encoding = self.encoding.submit(self.encode_texts, query, intent)
        if asked.video_ids:
            named = (video for video_id in dict.fromkeys(asked.video_ids) for video in self.by_id.get(video_id, ()))
            videos = [video for video in named if asked.admits(video)]
        elif asked == EVERYTHING:
            videos = list(self.videos.values())
        else:
            videos = [video for video in self.videos.values() if asked.admits(video)]
        everywhere = len(videos) == len(self.videos)
        by_row = {video.row: video for video in videos}
        rows = None if everywhere else list(by_row)
        words = self.speech.words(terms_of(intent), rows) if videos and intent.speech_weight > 0 else None
        encoding.result()
        target = self._target(query, intent, pixels)
        if not videos:
            return [], [], target
        check()
        spoken: list[Candidate] = []
        if target.speech is not None and words is not None:
            heard = self.speech.ask(target.speech, words, rows)
            heard = [one for one in heard if asked.admits_span(by_row[one.row], one.span)]
            heard = [one for one in heard if not self.is_unwanted(one, target)]
            spoken = [Candidate(video=by_row[one.row], span=one.span, spoken=one) for one in heard]
            rank(spoken, "dense", [-one.cosine for one in heard])
            worded = [c for c in spoken if c.spoken and c.spoken.coverage > 0]
            rank(worded, "lexical", [-c.spoken.coverage for c in worded if c.spoken])
        check()
        seen: list[ScoredVideo] = []
        if target.visual is not None and self.visual is not None:
            seen = self.visual.ask(
                target.visual, videos, everywhere=everywhere, excluded=target.excluded_visual, check=check
            )
        shown = [
            Candidate(video=one.video, span=moment.span, seen=moment, seen_confidence=one.best_confidence)
            for one in seen
            for moment in one.moments
            if asked.admits_span(one.video, moment.span) and not self.says_unwanted(one.video.row, moment.span, target)
        ]
        best = {one.video.row: one.best for one in seen}
        rank(shown, "visual", [-(best[c.video.row] + c.seen.score) for c in shown if c.seen is not None])
        found = merged(shown, spoken, target.intent)
        return [one for one in found if not is_example(one, target)], seen, target

    def target_of(self, query: Query, pixels: NDArray[np.uint8] | None) -> Target:
        """Turn a query into vectors: of its text, its picture or example, or between both by image_weight.

        Raises:
            VideoNotFound: If an example's video is not there.
            NoVisualEncoder: If a picture is asked about, and nothing here can see.
        """
        return self._target(query, intent_of(query), pixels)

    def _target(self, query: Query, intent: Intent, pixels: NDArray[np.uint8] | None) -> Target:
        example = None if query.like is None else self.example(query.like)
        has_text = bool(query.text.strip())
        shown: list[tuple[float, NDArray[np.float32] | None]] = []
        said: list[tuple[float, NDArray[np.float32] | None]] = []
        if has_text:
            share = 1.0 if pixels is None and example is None else 1.0 - query.image_weight
            if intent.visual_weight > 0 and self.visual is not None:
                shown.append((share, self.visual.encode_text(intent.text)))
            if intent.speech_weight > 0:
                said.append((share if example is not None else 1.0, self.speech.query_vector(query.text, intent)))
        picture_share = query.image_weight if has_text else 1.0
        if pixels is not None:
            if self.visual is None:
                raise NoVisualEncoder("an image cannot be searched for: nothing here can see")
            shown.append((picture_share, self.visual.image_vector(pixels)))
        if example is not None:
            row, span = example
            if intent.visual_weight > 0 and self.visual is not None:
                shown.append((picture_share, self.visual.example_vector(self.videos[row], span)))
            if intent.speech_weight > 0:
                said.append((picture_share, self.speech.example_vector(row, span)))
        unwanted = query.exclude_text.strip()
        return Target(
            intent=intent,
            visual=mixed(shown),
            speech=mixed(said),
            terms=terms_of(intent),
            excluded_visual=self.visual.encode_text(unwanted) if unwanted and self.visual is not None else None,
            excluded_speech=self.sentences.encode([unwanted])[0] if unwanted else None,
            excluded_terms=content_terms(unwanted),
            example=example,
        )

    def encode_texts(self, query: Query, intent: Intent) -> None:
        """Encode all that target() needs: where one encoder serves both channels, in one batch."""
        unwanted = query.exclude_text.strip()
        said = [unwanted] if unwanted else []
        if intent.text and intent.speech_weight > 0:
            said += self.speech.prompts(query.text, intent)
        if self.visual is not None:
            asked = intent.text if intent.visual_weight > 0 else ""
            shown = [prompt for text in (asked, unwanted) if text for prompt in self.visual.prompts(text)]
            if self.visual.texts is self.sentences:
                said += shown
            else:
                self.visual.texts.encode(shown)
        self.sentences.encode(said)

    def example(self, like: MomentReference) -> tuple[int, TimeSpan]:
        """Find the video of a "more like this" question."""
        found = self.by_id.get(like.video_id, ())
        video = only([one for one in found if like.collection in (None, one.collection)], like.video_id)
        return video.row, like.span

    def is_unwanted(self, spoken: Passage, target: Target) -> bool:
        """Whether an utterance says what is excluded, in its words or in its meaning, more than what is asked for."""
        if target.excluded_speech is None:
            return False
        if target.excluded_terms and all(matches_term(spoken.text, term) for term in target.excluded_terms):
            return True
        nearness = float(self.sentences.encode([spoken.text])[0] @ target.excluded_speech)
        return nearness >= COSINE_MIDDLE and nearness > spoken.cosine

    def says_unwanted(self, row: int, span: TimeSpan, target: Target) -> bool:
        """Whether the words of an exclusion are said in a span."""
        if not target.excluded_terms:
            return False
        said = " ".join(one.text for one in self.said(row).utterances if overlaps(one, span))
        return all(matches_term(said, term) for term in target.excluded_terms)
