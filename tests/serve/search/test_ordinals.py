"""Questions for the first, the second or the last of several moments."""

import pytest

from serve.search.intent import read_intent
from serve.search.ordinals import number_of, read_ordinal


@pytest.mark.parametrize(
    ("question", "target", "occurrence"),
    [
        ("the first time she says Paris", "Paris", 1),
        ("first time she says Paris", "Paris", 1),
        ("When does the speaker mention Paris for the third time?", "Paris", 3),
        ("when does she say Paris a second time?", "Paris", 2),
        ("when does she first mention Paris?", "Paris", 1),
        ("who last talks about money?", "money", -1),
        ("the last mention of Paris", "Paris", -1),
        ("where does the dog appear for the last time?", "the dog", -1),
        ("the next to last time we see the dog", "the dog", -2),
        ("first appearance of the dog", "the dog", 1),
        ("when does the red car first appear?", "the red car", 1),
        ("where is the cat last visible?", "the cat", -1),
        ("when does the dog appear first?", "the dog", 1),
        ("the second scene with the car", "the car", 2),
        ("second goal", "the goal", 2),
        ("when is the penultimate goal scored?", "the goal scored", -2),
        ("show me the first time the dog jumps", "the dog jumps", 1),
    ],
)
def test_the_place_in_time_is_no_part_of_the_target(question: str, target: str, occurrence: int) -> None:
    intent = read_intent(question)
    assert (intent.text, intent.occurrence) == (target, occurrence)


@pytest.mark.parametrize(
    "question",
    [
        "first aid", "when do we learn first aid?", "when does the first aid kit appear?", "the Last Supper",
        "a painting of the last supper", "World War Second", "the second world war", "first time buyers guide",
        "for the first time in history", "a man walks on the moon for the first time", "wait a second",
        "in the last minute", "last year's results", "when does she mention the first goal?",
        "when does he explain Newton's first law?", "where does he explain the second law of thermodynamics?",
        "when does she talk about the first lady?", 'when does he say "for the first time"?', "what does he do first?",
    ],
)  # fmt: skip
def test_content_stays_content(question: str) -> None:
    assert read_ordinal(question) == (question, None)
    assert read_intent(question).occurrence is None


@pytest.mark.parametrize(
    ("ordinal", "number"),
    [
        ("first", 1), ("2nd", 2), ("Tenth", 10), ("last", -1), ("very last", -1), ("next-to-last", -2),
        ("last but one", -2), ("second to last", -2), ("third from last", -3),
    ],
)  # fmt: skip
def test_numbers(ordinal: str, number: int) -> None:
    assert number_of(ordinal) == number
