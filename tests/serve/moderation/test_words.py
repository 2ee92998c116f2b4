"""TermFinder: words, phrases and regular expressions in utterances."""

import pytest

from encoders.values import Utterance
from serve.moderation.policies import Policy
from serve.moderation.words import TermFinder, next_context, words_in
from support.sample_live import make_utterance


def find_terms(terms: dict[str, list[str]], *texts: str) -> list[list[str]]:
    """Say texts two seconds apart; return the matches of each, as "id: words"."""
    policies = [
        Policy(
            policy_id=name,
            label=name,
            says=tuple(term for term in found if not term.startswith("/")),
            patterns=tuple(term.strip("/") for term in found if term.startswith("/")),
        )
        for name, found in terms.items()
    ]
    term_finder, before, answers = TermFinder(policies), (), []
    for n, text in enumerate(texts):
        utterance = make_utterance(text, 2.0 * n)
        found = term_finder.find(before, words_in(utterance))
        answers.append([f"{policies[one.policy].policy_id}: {' '.join(w.text for w in one.words)}" for one in found])
        before = next_context(before, words_in(utterance))
    return answers


@pytest.mark.parametrize(
    ("term", "text", "expected"),
    [
        ("gun", "He has a gun.", "gun."),
        ("gun", "two Guns!", "Guns!"),
        ("gun", "it has begun", None),
        ("drop the weapon", "Now drop the weapons, please", "drop the weapons,"),
        ("drop the weapon", "drop your weapon", None),
        ("café", "at the Cafe", "Cafe"),
        ("twenty four", "it is 24 now", "24"),
        ("24", "it is twenty four now", "twenty four"),
        ("20 percent", "twenty per cent of it", "twenty per cent"),
        ("don't shoot", "Dont shoot me", "Dont shoot"),
        ("/shoot(?:ing|er)s?/", "the shooters ran", "shooters"),
        ("/kill (?:him|her)/", "I will KILL her", "KILL her"),
        ("/kill (?:him|her)/", "I will kill it", None),
    ],
)
def test_finds_words_in_any_form_and_spelling(term: str, text: str, expected: str | None) -> None:
    assert find_terms({"it": [term]}, text) == [[] if expected is None else [f"it: {expected}"]]


def test_a_phrase_may_begin_in_the_utterance_before_and_is_found_once() -> None:
    terms = {"phrase": ["the house is on fire"], "pattern": ["/house.*fire/"]}

    assert find_terms(terms, "look the house", "is on fire now", "fire again") == [
        [],
        ["phrase: the house is on fire", "pattern: house is on fire"],
        ["pattern: house is on fire now fire"],  # a pattern as greedy as this one goes on
    ]


def test_no_phrase_spans_a_long_pause() -> None:
    term_finder = TermFinder([Policy(policy_id="a", label="A", says=("on fire",))])
    before = next_context((), words_in(make_utterance("it is on", 0.0)))

    assert term_finder.find(before, words_in(make_utterance("fire", 5.0)))
    assert not term_finder.find(before, words_in(make_utterance("fire", 50.0)))


def test_a_word_may_match_several_policies() -> None:
    assert find_terms({"a": ["fire"], "b": ["fire", "/fire/"]}, "fire") == [["a: fire", "b: fire"]]


def test_a_match_has_times_and_a_confidence() -> None:
    (found,) = TermFinder([Policy(policy_id="a", label="A", says=("on fire",))]).find(
        (), words_in(make_utterance("is on fire", 8.0))
    )

    assert [(word.start_seconds, word.end_seconds) for word in found.words] == [(8.25, 8.375), (8.5, 8.625)]
    assert found.confidence == pytest.approx(0.5)


def test_words_without_times_have_those_of_their_utterance() -> None:
    plain = Utterance(
        epoch=0, start_seconds=3.0, end_seconds=6.0, text="there is fire", words=(), language="en", avg_logprob=-1.0,
        no_speech_prob=0.0,
    )  # fmt: skip
    (found,) = TermFinder([Policy(policy_id="a", label="A", says=("fire",))]).find((), words_in(plain))

    assert (found.words[0].start_seconds, found.words[0].end_seconds) == (3.0, 6.0)


def test_empty_utterances_match_nothing() -> None:
    assert find_terms({"a": ["fire", "/f.re/"]}, "", "...") == [[], []]
