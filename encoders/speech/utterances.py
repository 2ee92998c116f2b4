"""Words and utterances: joins timed pieces into words, places words inside the speech, cuts words into utterances."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from encoders.speech.alignment import TimedText
from encoders.speech.sentences import CLAUSE_ENDS, ends_sentence
from encoders.values import Word

# These lists are openai-whisper's, full-width marks included.
OPENING = "\"'“¿([{-"  # joins the word after it
CLOSING = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001  joins the word before it
UTTERANCE_PAUSE_SECONDS = 1.0  # a longer pause ends an utterance; 0.8 cuts slow speakers inside a phrase
MAX_UTTERANCE_SECONDS = 7.0  # length of a subtitle; moments follow utterances, and 15 s measurably blurs their edges
MIN_PART_SECONDS = 2.0  # least part of a cut utterance; a shorter part says too little to be found
MAX_UTTERANCE_WORDS = 40  # ten seconds at four words a second; sentence encoders see 128 tokens
MIN_WORD_SECONDS = 0.02  # one position of Whisper's encoder; keeps times strictly increasing
SPEECH_MARGIN_SECONDS = 0.1  # the detector reports a start up to this late and an end up to this early


def join_pieces(pieces: Sequence[TimedText], spaced: bool) -> list[TimedText]:
    """Join pieces that the tokenizer cut inside a word: punctuation, "-time" of "space-time", ".3" of "0.3", a "%".

    Args:
        pieces: The timed pieces of one window.
        spaced: Whether the language puts spaces between words; if not, each piece is a word.
    """
    joined: list[TimedText] = []
    for piece in pieces:
        bare = piece.text.strip()
        if not bare:
            continue
        last = joined[-1] if joined else None
        closing = all(mark in CLOSING for mark in bare)
        opened = last is not None and all(mark in OPENING for mark in last.text.strip())
        inside = spaced and not piece.text.startswith(" ")
        if last is None or not (opened or inside or closing):
            joined.append(piece)
            continue
        joined[-1] = TimedText(
            text=last.text + piece.text.lstrip() if opened else last.text + piece.text,
            start_seconds=piece.start_seconds if opened else last.start_seconds,
            end_seconds=last.end_seconds if closing else piece.end_seconds,  # the time of a mark is a pause
            probability=piece.probability if opened else last.probability,
        )
    return joined


def place_words(
    pieces: Sequence[TimedText], start_seconds: float, end_seconds: float, speech: NDArray[np.float64]
) -> list[Word]:
    """Turn the pieces of a window into words in media time, inside the window and inside its spans of speech.

    By attention alone, a word next to a pause spreads over the pause; the detector places the voice better. Starts
    strictly increase, and no word ends after the next word begins.
    """
    spans = np.stack(
        [
            np.maximum(speech[:, 0] - SPEECH_MARGIN_SECONDS, start_seconds),
            np.minimum(speech[:, 1] + SPEECH_MARGIN_SECONDS, end_seconds),
        ],
        axis=1,
    )
    placed: list[tuple[float, float]] = []
    for piece in pieces:
        start, end = start_seconds + piece.start_seconds, start_seconds + piece.end_seconds
        overlaps = np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start)
        span = spans[int(np.argmax(overlaps))]  # the nearest span where nothing overlaps
        placed.append((float(np.clip(start, *span)), float(np.clip(end, *span))))
    return _separate(pieces, placed, end_seconds)


def _separate(pieces: Sequence[TimedText], placed: Sequence[tuple[float, float]], end_seconds: float) -> list[Word]:
    """Make starts strictly increase and spans disjoint."""
    count = len(placed)
    latest = [end_seconds - (count - i) * MIN_WORD_SECONDS for i in range(count)]  # leaves room for the words after it
    starts: list[float] = []
    for i, (start, _) in enumerate(placed):
        earliest = starts[-1] + MIN_WORD_SECONDS if starts else 0.0
        starts.append(max(min(start, latest[i]), earliest))
    words = []
    for i, (piece, (_, end)) in enumerate(zip(pieces, placed, strict=True)):
        limit = starts[i + 1] if i + 1 < count else max(end_seconds, starts[i] + MIN_WORD_SECONDS)
        words.append(
            Word(
                text=piece.text.strip(),
                start_seconds=starts[i],
                end_seconds=min(max(end, starts[i] + MIN_WORD_SECONDS), limit),
                probability=piece.probability,
            )
        )
    return words


def cut_utterances(words: Sequence[Word]) -> list[tuple[Word, ...]]:
    """Cut words into utterances: after a sentence, at a pause, and where an utterance would be too long."""
    utterances: list[tuple[Word, ...]] = []
    begin = 0
    for i, (word, following) in enumerate(pairwise(words)):
        pause_seconds = following.start_seconds - word.end_seconds
        if pause_seconds > UTTERANCE_PAUSE_SECONDS or ends_sentence(word.text):
            utterances += _shorten(words[begin : i + 1])
            begin = i + 1
    return utterances + _shorten(words[begin:])


def _shorten(words: Sequence[Word]) -> list[tuple[Word, ...]]:
    """Split a long utterance at its best point (a pause, a comma, near the middle), and split the parts again."""
    if not words:
        return []
    length_seconds = words[-1].end_seconds - words[0].start_seconds
    if length_seconds <= MAX_UTTERANCE_SECONDS and len(words) <= MAX_UTTERANCE_WORDS:
        return [tuple(words)]
    cut, best = 0, -1.0
    for i, (word, following) in enumerate(pairwise(words), 1):
        left = word.end_seconds - words[0].start_seconds
        right = words[-1].end_seconds - following.start_seconds
        pause_seconds = following.start_seconds - word.end_seconds
        worth = 2 * min(pause_seconds, 1.0) + word.text.endswith(CLAUSE_ENDS) + 0.5 * min(left, right) / length_seconds
        if worth > best and min(left, right) >= MIN_PART_SECONDS:
            cut, best = i, worth
    return _shorten(words[:cut]) + _shorten(words[cut:]) if cut else [tuple(words)]
