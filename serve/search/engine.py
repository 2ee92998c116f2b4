"""Engine: answers questions about one data directory.

A question's intent decides which channels (visual, speech by meaning, speech by words) look for candidates. Each
channel ranks its own candidates; the ranks are fused into one ranking of moments or videos, with a confidence and a
verdict. Surer answers come first; the ranks decide among answers that are nearly as sure.

Ranks are fused, not scores, because the channels' scores have different scales. A channel's ranks count only as far as
the channel trusts its own answer. Even for a question about pictures some sentence is nearest, and the rank of that
sentence must not outweigh the visual channel's.

Any number of threads may ask. They share the indexes, which are refreshed to the catalog between questions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.batching import TextVectors
from encoders.calibration import WEAK_CONFIDENCE, logit
from serve.catalog.catalog import Catalog
from serve.catalog.reader import require_single
from serve.catalog.speech.speakers import has_speakers
from serve.catalog.spelling import matches_term
from serve.encoder_set import Encoders
from serve.index import open_index
from serve.search.answers import AnswerReader
from serve.search.caches import ReadWriteLock, RowCache
from serve.search.evidence import ScoredVideo
from serve.search.intent import Intent, read_speaker
from serve.search.occurrence import choose_occurrence
from serve.search.ranking import (
    Candidate,
    RankedMoment,
    RankedVideo,
    Ranking,
    limit_per_video,
    merge_channels,
    merge_screens,
    rank_by_score,
    rank_in_channel,
    score_video,
)
from serve.search.speech import COSINE_MIDDLE, Passage, SpeechChannel, TermMatches, terms_of
from serve.search.spoken import judge_passages
from serve.search.target import QueryEncoder, Target, intent_of, is_example
from serve.search.traits import calibration_in
from serve.search.video_rows import Transcript, read_transcript
from serve.search.videos import SearchableVideos
from serve.search.visual import VisualChannel
from serve.search.written import Screen, WrittenChannel, judge_screens
from serve.settings import Settings
from serve.values import EVERYTHING, Answer, Moment, Query, Video, VideoAnswer
from temporal.values import ScoredSpan, TimeSpan
from temporal.window import overlaps

TRUSTED_COUNT = 10  # first videos of the visual list; the highest confidence among them is the trust in the list
# Similarity that a logit of confidence is worth in the order of visual moments: at 0.07, the most right videos come
# first on the training half of the development questions, about moments and about whole videos together.
CONFIDENCE_SHARE = 0.07
VIDEO_MOMENT_COUNT = 3  # moments listed with each video of a search
CACHED_UTTERANCE_COUNT = 200_000  # utterances that stay in memory, without their words


class Engine:
    """Answers questions about one data directory."""

    def __init__(self, catalog: Catalog, encoders: Encoders, directory: Path, settings: Settings) -> None:
        """Open empty indexes; the first question, or refresh(), fills them.

        The catalog is open for reading. The caller closes it, after the engine.
        """
        self.catalog, self.encoders, self.settings = catalog, encoders, settings
        self.fingerprint = encoders.space.fingerprint
        self.segment_index = open_index(directory, "segments", self.fingerprint, settings.index)
        self.utterance_index = open_index(directory, "utterances", self.fingerprint, settings.index)
        # None: the settings want no text to be searched for
        self.line_index = (
            open_index(directory, "text_lines", self.fingerprint, settings.index)
            if settings.text.model != "none"
            else None
        )
        self._transcripts: RowCache[int, Transcript] = RowCache(
            partial(read_transcript, catalog), len, CACHED_UTTERANCE_COUNT
        )
        self._answers = AnswerReader(catalog, self._transcripts)
        self.sentences = TextVectors(encoders.sentence.encode)
        self.speech = SpeechChannel(catalog, self.sentences, self.utterance_index, self._transcript)
        self.written = WrittenChannel(catalog, self.line_index) if self.line_index is not None else None
        self.visual: VisualChannel | None = None
        if (visual := encoders.visual) is not None:
            calibration = calibration_in(directory, visual)
            cache_bytes = settings.server.frame_cache_bytes
            texts = self.sentences if visual.sentence is encoders.sentence else TextVectors(visual.encode_texts)
            self.visual = VisualChannel(
                catalog, visual, texts, self.segment_index, settings.moments, calibration, cache_bytes=cache_bytes
            )
        self._query_encoder = QueryEncoder(self.sentences, self.speech, self.visual, reads=self.written is not None)
        self._text_thread = ThreadPoolExecutor(thread_name_prefix="texts")
        self._lock = ReadWriteLock()  # held by a writer that changes the indexes, the list of videos or the caches
        self._videos = SearchableVideos(self.fingerprint)
        self.on_new_video: Callable[[Video], None] = lambda video: None  # called with each video new to answers

    @property
    def state(self) -> tuple[str, int] | None:
        """Identity and generation of the catalog in the answers; None before the first refresh."""
        return self._videos.state

    @property
    def videos(self) -> dict[int, Video]:
        """The videos in the answers by row, in the order of their URIs."""
        return self._videos.by_row

    @property
    def by_id(self) -> dict[str, list[Video]]:
        """The videos in the answers by video_id, which is unique only within a collection."""
        return self._videos.by_id

    def close(self) -> None:
        """Stop reading the catalog."""
        self._text_thread.shutdown()
        self.segment_index.close()
        self.utterance_index.close()
        if self.line_index is not None:
            self.line_index.close()

    # ---- one state of the catalog and of the indexes ----

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Hold one state of the catalog, and of the indexes that were made from it, for this thread."""
        with self._lock.reading(), self.catalog.snapshot():
            if self._is_fresh():
                yield
                return
        with ExitStack() as stack:

            def write() -> None:
                # Entered here: a snapshot from before the wait for the lock might be older than the indexes.
                stack.enter_context(self.catalog.snapshot())
                self._refresh()

            with self._lock.writing_then_reading(write):
                yield

    def refresh(self) -> None:
        """Refresh the indexes to the catalog now, to spare the next question the wait."""
        with self.snapshot():
            pass

    def _is_fresh(self) -> bool:
        """Whether the indexes match the catalog as this thread sees it."""
        return self.state == (self.catalog.identity(), self.catalog.generation())

    def _refresh(self) -> None:
        if self._is_fresh():
            return
        self.segment_index.refresh(self.catalog)
        self.utterance_index.refresh(self.catalog)
        if self.line_index is not None:
            self.line_index.refresh(self.catalog)
        gone, new = self._videos.refresh(self.catalog)
        self._transcripts.discard(set(gone).__contains__)
        if self.visual is not None:
            self.visual.forget(gone)
        for video in new:
            self.on_new_video(video)

    # ---- answers ----

    def moments(self, query: Query, pixels: NDArray[np.uint8] | None = None) -> Answer:
        """Return the best moments, best first, at most `query.limit`, over all videos that the filter admits.

        Args:
            pixels: The query's picture, uint8 (H, W, 3) RGB at the visual encoder's input size.
        Raises:
            VideoNotFound, NoVisualEncoder: As rank_moments().
        """
        ranking = self.rank_moments(query, pixels)
        moments, _ = self.page_of_moments(ranking, 0, query.limit)
        return Answer(moments=moments, degraded_channels=ranking.degraded_channels)

    def search(self, query: Query, pixels: NDArray[np.uint8] | None = None) -> Answer:
        """Return the best videos, best first, at most `query.limit`, each with its best moments; see moments()."""
        ranking = self.rank_videos(query, pixels)
        videos, _ = self.page_of_videos(ranking, 0, query.limit)
        return Answer(videos=videos, degraded_channels=ranking.degraded_channels)

    def page_of_moments(self, ranking: Ranking[RankedMoment], start: int, count: int) -> tuple[tuple[Moment, ...], int]:
        """Read at most `count` moments of a ranking, from entry `start` on (0 is the best).

        A moment whose video was deleted since the ranking is left out and does not count.

        Returns:
            The moments, and the entry where the next page starts: len(ranking.entries) after the last page.
        """
        return self._answers.read_moments(ranking.entries, start, count)

    def page_of_videos(
        self, ranking: Ranking[RankedVideo], start: int, count: int
    ) -> tuple[tuple[VideoAnswer, ...], int]:
        """Read at most `count` videos of a ranking, each with its best moments; see page_of_moments()."""
        return self._answers.read_videos(ranking.entries, start, count)

    # ---- rankings ----

    def rank_moments(
        self, query: Query, pixels: NDArray[np.uint8] | None = None, check: Callable[[], None] = lambda: None
    ) -> Ranking[RankedMoment]:
        """Rank every moment that any channel finds. The moments themselves are read by page_of_moments().

        Args:
            check: Called repeatedly; an exception that it raises cancels the question.
        Raises:
            VideoNotFound: If the video of the query's example is not there.
            NoVisualEncoder: If the query has a picture, and the library no visual encoder.
        """
        with self.snapshot():
            candidates, _, intent = self._find_candidates(query, pixels, check)
            ranked = choose_occurrence(rank_by_score(candidates, intent), intent)
        ranked = [moment for moment in ranked if moment.confidence >= query.min_confidence]
        if query.max_moments_per_video is not None:
            ranked = limit_per_video(ranked, query.max_moments_per_video)
        return Ranking(entries=tuple(ranked), degraded_channels=self._missing_channels(query))

    def rank_videos(
        self, query: Query, pixels: NDArray[np.uint8] | None = None, check: Callable[[], None] = lambda: None
    ) -> Ranking[RankedVideo]:
        """Rank every video that any channel finds, each with its best moments; see rank_moments()."""
        with self.snapshot():
            candidates, scored, intent = self._find_candidates(query, pixels, check)
        by_video: dict[int, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            by_video[candidate.video.row].append(candidate)
        # All videos of the visual list get the same trust, which keeps their order.
        visual_trust = max((video.confidence for video in scored[:TRUSTED_COUNT]), default=0.0)
        visual_ranks = {video.video.row: (rank, video) for rank, video in enumerate(scored, 1)}
        videos = {candidate.video.row: candidate.video for candidate in candidates}
        videos |= {video.video.row: video.video for video in scored}
        count = query.max_moments_per_video or VIDEO_MOMENT_COUNT
        ranked = []
        for row, video in videos.items():
            check()
            score, confidence = score_video(by_video[row], visual_ranks.get(row), visual_trust, intent)
            if confidence >= query.min_confidence:
                moments = tuple(choose_occurrence(rank_by_score(by_video[row], intent), intent)[:count])
                ranked.append(RankedVideo(video=video, score=score, confidence=confidence, moments=moments))
        ranked.sort(key=lambda entry: (-entry.score, entry.video.uri, entry.video.row))
        return Ranking(entries=tuple(ranked), degraded_channels=self._missing_channels(query))

    def _missing_channels(self, query: Query) -> tuple[str, ...]:
        """Return the channels that a query asks for and the library does not have."""
        missing = []
        if query.channel in ("visual", "all") and self.visual is None:
            missing.append("visual")
        if query.channel in ("speech", "all") and self.encoders.space.speech == "none":
            missing.append("speech")
        if query.channel == "text" and self.written is None:  # in a question for all channels, that is as it was set
            missing.append("text")
        return tuple(missing)

    # ---- candidates ----

    def _find_candidates(
        self, query: Query, pixels: NDArray[np.uint8] | None, check: Callable[[], None]
    ) -> tuple[list[Candidate], list[ScoredVideo], Intent]:
        """Return the candidates of all channels, the visual channel's ranking of videos, and the query's intent."""
        query = self._with_speaker(query)
        intent = intent_of(query)
        # Another thread encodes the texts, which needs no catalog, while this thread looks for their words.
        encoding = self._text_thread.submit(copy_context().run, self._query_encoder.encode_texts, query, intent)
        videos = self._select_videos(query)
        everywhere = len(videos) == len(self.videos) and self._videos.are_all
        rows = None if everywhere else [video.row for video in videos]
        words: TermMatches | None = None
        if videos and intent.speech_weight > 0:
            words = self.speech.find_words(terms_of(intent), rows, query.speaker)
        encoding.result()
        target = self._query_encoder.encode(query, intent, pixels, self._find_example(query))
        if not videos:
            return [], [], intent
        check()
        passages: list[Passage] = []
        if target.speech is not None and words is not None:
            passages = self.speech.find_passages(target.speech, words, rows, intent, query.speaker)
        spoken = self._rank_passages(passages, {video.row: video for video in videos}, query, target, intent)
        check()
        scored: list[ScoredVideo] = []
        if target.visual is not None and self.visual is not None:
            scored = self.visual.score_videos(
                target.visual, videos, everywhere=everywhere, excluded=target.excluded_visual, check=check
            )
        merged = merge_channels(self._rank_visual_moments(scored, query, target), spoken, intent)
        if self.written is not None and target.written is not None:
            check()
            screens = self.written.find_screens(target.written, intent, rows)
            merged = merge_screens(self._rank_screens(screens, videos, query, target, intent), merged, intent)
        return [candidate for candidate in merged if not is_example(candidate, target)], scored, intent

    def _with_speaker(self, query: Query) -> Query:
        """Return a query with the speaker that its text names by number, if any video's speakers are told apart."""
        if query.speaker or query.channel not in ("all", "speech"):
            return query
        text, speaker = read_speaker(query.text)
        return replace(query, text=text, speaker=speaker) if speaker and has_speakers(self.catalog) else query

    def _select_videos(self, query: Query) -> list[Video]:
        """Return the videos that the query's filter admits."""
        wanted = query.filter
        if wanted.video_ids:
            named = (video for video_id in dict.fromkeys(wanted.video_ids) for video in self.by_id.get(video_id, ()))
            return [video for video in named if wanted.admits(video)]
        if wanted == EVERYTHING:
            return list(self.videos.values())
        return [video for video in self.videos.values() if wanted.admits(video)]

    def _rank_passages(
        self, passages: Sequence[Passage], by_row: Mapping[int, Video], query: Query, target: Target, intent: Intent
    ) -> list[Candidate]:
        """Return the candidates of the two speech channels, ranked by meaning and by words."""
        admits_span = query.filter.admits_span
        admitted = [
            passage
            for passage in passages
            if admits_span(by_row[passage.row], passage.span) and not self.is_excluded(passage, target)
        ]
        candidates = [
            Candidate(video=by_row[passage.row], span=passage.span, passage=passage, spoken_confidence=confidence)
            for passage, confidence in zip(admitted, judge_passages(admitted, intent), strict=True)
        ]
        rank_in_channel(candidates, "dense", [-c.passage.cosine for c in candidates if c.passage])
        worded = [c for c in candidates if c.passage and c.passage.coverage > 0]
        rank_in_channel(worded, "lexical", [-c.passage.coverage for c in worded if c.passage])
        return candidates

    def _rank_screens(
        self, screens: Sequence[Screen], videos: Sequence[Video], query: Query, target: Target, intent: Intent
    ) -> list[Candidate]:
        """Return the candidates of the text channel; of a question that names no writing, those that are likely."""
        by_row = {video.row: video for video in videos}
        least = 0.0 if intent.names_text or query.channel == "text" else WEAK_CONFIDENCE
        candidates = [
            Candidate(video=by_row[screen.row], span=screen.span, screen=screen, written_confidence=confidence)
            for screen, confidence in zip(screens, judge_screens(screens, intent), strict=True)
            if confidence >= least
            and query.filter.admits_span(by_row[screen.row], screen.span)
            and not self._shows_excluded(screen, target)
        ]
        rank_in_channel(candidates, "written", [-c.screen.score for c in candidates if c.screen])
        return candidates

    def _shows_excluded(self, screen: Screen, target: Target) -> bool:
        """Whether the words of the exclusion are written on a screen."""
        text = " ".join(line.text for line in screen.matched)
        return bool(target.excluded_terms) and all(matches_term(text, term) for term in target.excluded_terms)

    def _rank_visual_moments(self, scored: Sequence[ScoredVideo], query: Query, target: Target) -> list[Candidate]:
        admits_span = query.filter.admits_span
        candidates, scores = [], []
        for video in scored:
            for moment, confidence in zip(video.moments, video.confidences, strict=True):
                if admits_span(video.video, moment.span) and not self._says_excluded(video.video.row, moment, target):
                    candidates.append(
                        Candidate(video=video.video, span=moment.span, visual=moment, visual_confidence=confidence)
                    )
                    scores.append(video.moment_score + moment.score + CONFIDENCE_SHARE * logit(confidence))
        rank_in_channel(candidates, "visual", [-score for score in scores])
        return candidates

    # ---- targets ----

    def target_of(self, query: Query, pixels: NDArray[np.uint8] | None) -> Target:
        """Encode a query; standing queries (serve.moderation.standing) keep the result. Nothing answers an empty one.

        Raises:
            VideoNotFound: If the video of the query's example is not there.
            NoVisualEncoder: If the query has a picture, and the library no visual encoder.
        """
        intent = intent_of(query)
        if intent.is_empty:
            return Target(visual=None, speech=None)
        return self._query_encoder.encode(query, intent, pixels, self._find_example(query))

    def _find_example(self, query: Query) -> tuple[Video, TimeSpan] | None:
        """Return the video and the span of a "more like this" question; None for other questions."""
        like = query.like
        if like is None:
            return None
        videos = [v for v in self.by_id.get(like.video_id, ()) if like.collection in (None, v.collection)]
        return require_single(videos, like.video_id), like.span

    # ---- exclusions ----

    def is_excluded(self, passage: Passage, target: Target) -> bool:
        """Whether a passage has the words of the exclusion, or is nearer in meaning to it than to the question."""
        if target.excluded_speech is None:
            return False
        if target.excluded_terms and all(
            matches_term(passage.text, term, passage.language) for term in target.excluded_terms
        ):
            return True
        cosine = float(self.sentences.encode([passage.text])[0] @ target.excluded_speech)
        return cosine >= COSINE_MIDDLE and cosine > passage.cosine

    def _says_excluded(self, row: int, moment: ScoredSpan, target: Target) -> bool:
        """Whether the words of the exclusion are said in a visual moment."""
        if not target.excluded_terms:
            return False
        spoken = [each for each in self._transcript(row).utterances if overlaps(each, moment.span)]
        said = " ".join(each.text for each in spoken)
        return bool(spoken) and all(matches_term(said, term, spoken[0].language) for term in target.excluded_terms)

    def _transcript(self, row: int) -> Transcript:
        """Return the transcript of the version of a video that is in the answers."""
        return self._transcripts.get(row, self.videos[row].version if row in self.videos else 0)
