"""Titles: words that were said, of one part more than of the others."""

import pytest

from encoders.values import Utterance, Word
from temporal.chapters.titles import MAX_TITLE_CHARS, titles

STOP_WORDS = {"the", "of", "a", "and", "is", "we", "it", "im"}


def make_utterance(text: str, *, words: tuple[str, ...] = ()) -> Utterance:
    return Utterance(
        epoch=0,
        start_seconds=0.0,
        end_seconds=1.0,
        text=text,
        words=tuple(Word(text=word, start_seconds=0.0, end_seconds=1.0, probability=1.0) for word in words),
        language="en",
        avg_logprob=-0.3,
        no_speech_prob=0.1,
    )


def test_a_title_has_what_the_part_says_more_than_the_others() -> None:
    parts = [
        [make_utterance("The garden is green, and the garden is large.")],
        [make_utterance("The kitchen of the garden house: a kitchen is warm.")],
    ]
    first, second = titles(parts, STOP_WORDS)
    assert first.split(", ")[0] == "garden"
    assert second.split(", ")[0] == "kitchen"


def test_a_phrase_that_is_said_again_stays_together() -> None:
    [title] = titles(
        [[make_utterance("A space shuttle rises."), make_utterance("We saw the space shuttle again.")]], STOP_WORDS
    )
    assert title.split(", ")[0] == "space shuttle"


def test_a_name_stays_together_though_it_is_said_once() -> None:
    assert "Eileen Collins" in titles([[make_utterance("and Eileen Collins is there")]], STOP_WORDS)[0].split(", ")


def test_words_are_written_as_they_were_said() -> None:
    assert titles([[make_utterance("It is NASA's rover.")]], STOP_WORDS) == ["NASA's, rover"]


def test_no_term_goes_across_punctuation() -> None:
    [title] = titles([[make_utterance("Berlin, Paris. Berlin, Paris.")]], STOP_WORDS)
    assert title == "Berlin, Paris"
    assert titles([[make_utterance("Berlin. Paris"), make_utterance("and Rome")]], STOP_WORDS) == [
        "Berlin, Paris, Rome"
    ]


@pytest.mark.parametrize("text", ["", "  ", "The of, a!", "... -- ?", "I'm it."])
def test_without_words_of_a_subject_there_is_no_title(text: str) -> None:
    assert titles([[make_utterance(text)], []], STOP_WORDS) == ["", ""]


def test_every_word_of_a_title_was_said_in_its_part() -> None:
    parts = [
        [make_utterance("One two Three four"), make_utterance("three four five")],
        [make_utterance("six Seven eight, three")],
    ]
    for part, title in zip(parts, titles(parts, STOP_WORDS), strict=True):
        assert all(term in " ".join(each.text for each in part) for term in title.split(", "))


def test_a_script_without_spaces_has_the_words_that_were_recognised() -> None:
    [title] = titles([[make_utterance("宇宙船が宇宙船", words=("宇宙船", "が", "宇宙船"))]], STOP_WORDS)
    assert title.split(", ")[0] == "宇宙船"


def test_a_title_is_short_enough_for_players() -> None:
    long = " ".join(f"{letter * 28}." for letter in "abcd")
    [title] = titles([[make_utterance(long)]], STOP_WORDS)
    assert 28 <= len(title) <= MAX_TITLE_CHARS
