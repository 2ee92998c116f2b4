"""Target: what a query looks for, as vectors and words. QueryEncoder makes it; serve.search.engine uses both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from encoders.batching import TextVectors
from encoders.errors import NoVisualEncoder
from serve.catalog.spelling import content_terms
from serve.search.evidence import VisualQuery
from serve.search.intent import Intent, read_intent
from serve.search.ranking import Candidate
from serve.search.speech import SpeechChannel, terms_of
from serve.search.visual import VisualChannel
from serve.values import Query, Video
from temporal.values import TimeSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The vectors and words of a query, and those of its exclusion. Vectors are float32 (D,), unit length."""

    visual: VisualQuery | None  # None: the query does not ask for it, or the library has no visual encoder
    speech: NDArray[np.float32] | None  # None: the query does not ask for it
    terms: Sequence[str] = ()  # words and phrases
    written: NDArray[np.float32] | None = None  # None: the query does not ask for it, or the library has no text
    intent: Intent | None = None  # None: it asks for nothing
    excluded_visual: NDArray[np.float32] | None = None
    excluded_speech: NDArray[np.float32] | None = None
    excluded_terms: Sequence[str] = ()
    example: tuple[int, TimeSpan] | None = None  # video row and span of a "more like this" question


class QueryEncoder:
    """Encodes queries. Any number of threads may use it."""

    def __init__(
        self,
        sentences: TextVectors,
        speech: SpeechChannel,
        visual: VisualChannel | None,
        *,
        reads: bool,
    ) -> None:
        """Take the encoders; `reads`: the library has the channel of text in pictures."""
        self._sentences, self._speech, self._visual, self._reads = sentences, speech, visual, reads

    def encode(
        self, query: Query, intent: Intent, pixels: NDArray[np.uint8] | None, example: tuple[Video, TimeSpan] | None
    ) -> Target:
        """Encode a query's text, its picture or example, or a mix of both by image_weight.

        Args:
            pixels: The query's picture, uint8 (H, W, 3) RGB at the visual encoder's input size.
            example: The video and the span that `query.like` names.
        Raises:
            NoVisualEncoder: If there is a picture, and no visual encoder.
        """
        has_text = bool(query.text.strip())
        seen: NDArray[np.float32] | None = None
        pictures: list[tuple[float, NDArray[np.float32] | None]] = []  # weights and vectors
        speech: list[tuple[float, NDArray[np.float32] | None]] = []
        if has_text:
            share = 1.0 if pixels is None and example is None else 1.0 - query.image_weight
            if intent.visual_weight > 0 and self._visual is not None:
                seen = self._visual.encode_text(intent.text) if share > 0 else None
            if intent.speech_weight > 0:
                speech.append((share if example is not None else 1.0, self._speech.encode_question(query.text, intent)))
        picture_share = query.image_weight if has_text else 1.0
        if pixels is not None:
            if self._visual is None:
                raise NoVisualEncoder("an image cannot be searched for: the library has no visual encoder")
            pictures.append((picture_share, self._visual.encode_picture(pixels)))
        if example is not None:
            video, span = example
            if intent.visual_weight > 0 and self._visual is not None:
                pictures.append((picture_share, self._visual.average_frames(video, span)))
            if intent.speech_weight > 0:
                speech.append((picture_share, self._speech.average_utterances(video.row, span)))
        excluded = query.exclude_text.strip()
        return Target(
            visual=_make_visual(1.0 - picture_share, seen, _mix(pictures), picture_share),
            speech=_mix(speech),
            terms=terms_of(intent),
            written=self._sentences.encode([intent.written_text])[0] if self._asks_for_text(query, intent) else None,
            intent=intent,
            excluded_visual=self._visual.encode_text(excluded) if excluded and self._visual is not None else None,
            excluded_speech=self._sentences.encode([excluded])[0] if excluded else None,
            excluded_terms=content_terms(excluded),
            example=None if example is None else (example[0].row, example[1]),
        )

    def encode_texts(self, query: Query, intent: Intent) -> None:
        """Encode, and keep in memory, all texts that encode() needs: in one batch if both channels share an encoder."""
        excluded = query.exclude_text.strip()
        sentences = [excluded] if excluded else []
        if intent.text and intent.speech_weight > 0:
            sentences += self._speech.prompts_of(query.text, intent)
        if self._asks_for_text(query, intent):
            sentences.append(intent.written_text)
        if self._visual is not None:
            wanted = intent.text if intent.visual_weight > 0 else ""
            captions = [prompt for text in (wanted, excluded) if text for prompt in self._visual.prompts_of(text)]
            if self._visual.texts is self._sentences:
                sentences += captions
            else:
                self._visual.texts.encode(captions)
        self._sentences.encode(sentences)

    def _asks_for_text(self, query: Query, intent: Intent) -> bool:
        """Whether a query asks for text in pictures, and the library has that channel."""
        return self._reads and intent.text_weight > 0 and bool(query.text.strip())


def intent_of(query: Query) -> Intent:
    """Return the intent of a query's text; without text, a picture asks for sight, an example for sight and speech."""
    if query.text.strip():
        intent = read_intent(query.text, "speech" if query.speaker else query.channel)
        return replace(intent, is_empty=False) if query.image or query.like is not None else intent
    if query.like is None or query.channel == "visual":
        return Intent(text="", speech_text="", phrases=(), visual_weight=1.0, speech_weight=0.0)
    if query.channel == "speech":
        return Intent(text="", speech_text="", phrases=(), visual_weight=0.0, speech_weight=1.0)
    if query.channel == "text":  # nothing is written like an example
        return Intent(text="", speech_text="", phrases=(), visual_weight=0.0, speech_weight=0.0, is_empty=True)
    return Intent(text="", speech_text="", phrases=(), visual_weight=0.5, speech_weight=0.5)


def is_example(candidate: Candidate, target: Target) -> bool:
    """Whether a candidate overlaps the example of a "more like this" question."""
    if target.example is None:
        return False
    row, span = target.example
    own = candidate.span
    return candidate.video.row == row and own.start_seconds < span.end_seconds and own.end_seconds > span.start_seconds


def _make_visual(
    share: float, text: NDArray[np.float32] | None, picture: NDArray[np.float32] | None, picture_share: float
) -> VisualQuery | None:
    """Return what the visual channel looks for; None without a text and without a picture."""
    vector = text if picture is None else _mix([(share, text), (picture_share, picture)])
    if vector is None:
        return None
    picture_share = 0.0 if picture is None else picture_share
    return VisualQuery(vector=vector, text=text, picture=picture, picture_share=picture_share)


def _mix(parts: Sequence[tuple[float, NDArray[np.float32] | None]]) -> NDArray[np.float32] | None:
    """Return the weighted mean of vectors at unit length, float32 (D,); None if there is none of positive weight."""
    vectors = [(weight, vector) for weight, vector in parts if vector is not None and weight > 0]
    if not vectors:
        return None
    if len(vectors) == 1:
        return vectors[0][1]
    total = np.sum([weight * vector for weight, vector in vectors], axis=0)
    return np.asarray(total / np.linalg.norm(total), np.float32)
