"""Words and utterances from timed pieces."""

from itertools import pairwise

import numpy as np
import pytest

from encoders.speech import utterances
from encoders.speech.alignment import TimedText, warp
from encoders.speech.utterances import cut_utterances, join_pieces, place_words
from encoders.values import Word


def pieces(*texts: str, step_seconds: float = 0.5) -> list[TimedText]:
    return [
        TimedText(text=text, start_seconds=i * step_seconds, end_seconds=(i + 1) * step_seconds, probability=0.9)
        for i, text in enumerate(texts)
    ]


def words(text: str, pauses: dict[int, float] | None = None, word_seconds: float = 0.3) -> list[Word]:
    """Words one after the other, with a pause before the numbered ones."""
    made, now = [], 0.0
    for i, token in enumerate(text.split()):
        now += (pauses or {}).get(i, 0.0)
        made.append(Word(text=token, start_seconds=now, end_seconds=now + word_seconds, probability=0.9))
        now += word_seconds
    return made


def texts(cut: list[tuple[Word, ...]]) -> list[str]:
    return [" ".join(word.text for word in utterance) for utterance in cut]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([" Hello", ",", " you", "."], [" Hello,", " you."]),
        ([" space", "-time", " bends"], [" space-time", " bends"]),
        ([" about", " 60", "%", " of", " 0", ".3"], [" about", " 60%", " of", " 0.3"]),
        ([' "', "Yes", ',"', " she"], [' "Yes,"', " she"]),
    ],
)
def test_joins_what_the_tokenizer_cut_inside_a_word(given: list[str], expected: list[str]) -> None:
    assert [piece.text for piece in join_pieces(pieces(*given), spaced=True)] == expected


def test_keeps_pieces_apart_in_languages_without_spaces() -> None:
    assert [piece.text for piece in join_pieces(pieces("你", "好", "。"), spaced=False)] == ["你", "好。"]


def test_clamps_words_into_heard_speech() -> None:
    given = [
        TimedText(text=" one", start_seconds=0.0, end_seconds=1.5, probability=0.9),
        TimedText(text=" two", start_seconds=1.5, end_seconds=6.0, probability=0.9),
    ]
    placed = place_words(given, 10.0, 20.0, np.array([[11.0, 12.0], [15.5, 16.0]]))
    margin = utterances.SPEECH_MARGIN_SECONDS
    assert placed[0].start_seconds == pytest.approx(11.0 - margin)
    assert placed[1].start_seconds >= 11.0
    assert all(word.end_seconds <= 16.0 + margin for word in placed)


def test_word_times_strictly_grow_inside_the_window_whatever_the_pieces_say() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        edges = rng.uniform(0, 3, size=(40, 2))
        given = [TimedText(text=" w", start_seconds=float(a), end_seconds=float(b), probability=0.5) for a, b in edges]
        placed = place_words(given, 7.0, 10.0, np.array([[7.5, 8.0], [9.0, 9.5]]))
        starts = [word.start_seconds for word in placed]
        assert all(a < b for a, b in pairwise(starts))
        assert all(a.end_seconds <= b.start_seconds for a, b in pairwise(placed))
        assert all(word.start_seconds < word.end_seconds for word in placed)
        assert placed[0].start_seconds >= 7.0
        assert placed[-1].end_seconds <= 10.0


@pytest.mark.parametrize(
    ("given", "pauses", "expected"),
    [
        ("It rains. Dr. Who left? Yes!", {}, ["It rains.", "Dr. Who left?", "Yes!"]),
        ("one two three", {2: 1.5}, ["one two", "three"]),
        ("one two three", {2: 0.5}, ["one two three"]),
    ],
)
def test_cuts_after_sentences_and_at_pauses(given: str, pauses: dict[int, float], expected: list[str]) -> None:
    assert texts(cut_utterances(words(given, pauses))) == expected


def test_cuts_an_endless_sentence_at_a_comma() -> None:
    given = " ".join(["word"] * 20 + ["comma,"] + ["word"] * 19)
    assert [len(utterance) for utterance in cut_utterances(words(given))] == [21, 19]


def test_cuts_an_endless_sentence_without_commas_at_its_longest_pause() -> None:
    cut = cut_utterances(words(" ".join(["word"] * 40), {25: 0.4}))
    assert 25 in np.cumsum([len(utterance) for utterance in cut])


def test_no_utterance_is_too_long() -> None:
    cut = cut_utterances(words(" ".join(["word"] * 300), word_seconds=0.15))
    assert sum(map(len, cut)) == 300
    for utterance in cut:
        assert len(utterance) <= utterances.MAX_UTTERANCE_WORDS
        length_seconds = utterance[-1].end_seconds - utterance[0].start_seconds
        assert length_seconds <= utterances.MAX_UTTERANCE_SECONDS


def test_no_words_make_no_utterances() -> None:
    assert cut_utterances([]) == []


def test_warp_finds_the_cheapest_path() -> None:
    cost = np.random.default_rng(0).normal(size=(7, 12)).astype(np.float32)
    best = np.full((8, 13), np.inf)
    best[0, 0] = 0
    for i in range(1, 8):
        for j in range(1, 13):
            best[i, j] = cost[i - 1, j - 1] + min(best[i - 1, j - 1], best[i - 1, j], best[i, j - 1])
    rows, columns = warp(cost)
    assert cost[rows, columns].sum() == pytest.approx(best[-1, -1], abs=1e-5)
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, 6, 11)
    steps = np.stack([np.diff(rows), np.diff(columns)])
    assert ((steps >= 0) & (steps <= 1)).all()
    assert (steps.sum(axis=0) >= 1).all()
