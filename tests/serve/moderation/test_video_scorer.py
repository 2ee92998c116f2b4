"""Speech events of one video do not depend on the steps in which its words become final."""

import json
import random
from dataclasses import replace

import pytest

from encoders.values import Utterance, Word
from serve.moderation.policies import Policies, Policy
from serve.moderation.video_scorer import Finding, Rulebook, VideoScorer
from support.sample_live import make_utterance, write_line

POLICIES = Policies(
    version="1",
    policies=(
        Policy(policy_id="fire", label="Fire", says=("fire", "on the way"), cooldown_seconds=4.0),
        Policy(policy_id="flood", label="Flood", patterns=("flood.*coming",), cooldown_seconds=0.0),
    ),
)
END = 400.0


def book() -> Rulebook:
    return Rulebook(POLICIES, "default", None, "fingerprint")


def talk(seed: int) -> list[tuple[int, Utterance]]:
    """Make long and short utterances with pauses, in two epochs, with their positions."""
    rng, at, found = random.Random(seed), 0.0, []
    for n in range(40):
        words = rng.choices(["the", "fire", "flood", "is", "coming", "on", "way", "nothing"], k=rng.randrange(1, 12))
        step = rng.uniform(0.2, 1.5)
        times = [at + step * k for k in range(len(words) + 1)]
        plain = make_utterance(" ".join(words), at, epoch=n // 25)
        spoken = tuple(
            Word(text=word, start_seconds=start, end_seconds=end, probability=0.5)
            for word, start, end in zip(words, times, times[1:], strict=False)
        )
        found.append((3 * n, replace(plain, words=spoken, end_seconds=times[-1])))
        at = times[-1] + rng.choice([0.0, 0.5, 3.0, 8.0])
    return found


def sorted_findings(findings: list[Finding]) -> list[tuple[object, ...]]:
    return sorted(
        (one.policy, one.start_seconds, one.kind != "OPENED", one.kind == "CLOSED", len(one.words), one.end_seconds)
        for one in findings
    )


@pytest.mark.parametrize("seed", range(10))
def test_words_give_the_same_events_however_the_watermark_moves(seed: int) -> None:
    utterances, rng = talk(seed), random.Random(seed)
    whole = VideoScorer(book())
    at_once = [*whole.add_words(whole.speech, utterances, END), *whole.finish(END)]

    steps, watermark, kept = [], 0.0, None
    while watermark < END:
        watermark = min(END, watermark + rng.choice([0.5, 2.0, 7.0, 30.0]))
        scorer = VideoScorer(book(), kept)
        new = [one for one in utterances if one[0] > scorer.speech.after and one[1].start_seconds < watermark]
        steps += scorer.add_words(scorer.speech, new, watermark)
        kept = json.loads(json.dumps(scorer.state()))
    steps += VideoScorer(book(), kept).finish(END)

    assert sorted_findings(steps) == sorted_findings(at_once)
    assert any(one.kind == "CLOSED" for one in at_once)


def test_words_said_again_within_the_cooldown_are_one_event() -> None:
    scorer = VideoScorer(book())
    found = list(
        scorer.add_words(
            scorer.speech,
            [
                (0, make_utterance("fire", 1.0)),
                (1, make_utterance("fire and fire", 4.0)),
                (2, make_utterance("fire", 20.0)),
            ],
            60.0,
        )
    )

    assert [(one.kind, one.start_seconds, len(one.words)) for one in found] == [
        ("OPENED", 1.0, 1), ("UPDATED", 1.0, 3), ("CLOSED", 1.0, 3), ("OPENED", 20.0, 1), ("CLOSED", 20.0, 1),
    ]  # fmt: skip
    assert found[2].end_seconds == pytest.approx(4.625)
    assert found[2].confidence == pytest.approx(0.5)


def test_what_is_written_opens_events_of_its_own_and_a_phrase_goes_over_two_lines_of_one_picture() -> None:
    policies = Policies(
        version="1",
        policies=(
            Policy(
                policy_id="shop", label="Shop", reads=("gun shop",), read_patterns=("ak-?47",), cooldown_seconds=4.0
            ),
            Policy(policy_id="talk", label="Talk", says=("gun shop",)),
        ),
    )
    scorer = VideoScorer(Rulebook(policies, "default", None, "fingerprint"))
    lines = [
        (0, write_line("Joe's gun", 2.0, 8.0)),
        (1, write_line("SHOP and bar", 2.0, 8.0)),
        (2, write_line("AK47", 10.0, 12.0)),
        (3, write_line("a gun", 30.0, 32.0)),
        (4, write_line("shop", 33.0, 34.0)),  # of another picture
    ]
    found = [*scorer.add_words(scorer.text, lines[:2], 9.0)]
    scorer = VideoScorer(scorer.book, json.loads(json.dumps(scorer.state())))
    found += [*scorer.add_words(scorer.text, lines[2:], 60.0), *scorer.finish(60.0)]
    assert [(one.policy, one.channel, one.kind, one.start_seconds, one.end_seconds) for one in found] == [
        (0, "text", "OPENED", 2.0, 8.0), (0, "text", "UPDATED", 2.0, 12.0), (0, "text", "CLOSED", 2.0, 12.0),
    ]  # fmt: skip
    assert [word.text for word in found[-1].words] == ["gun", "SHOP", "AK47"]
    assert found[0].confidence == pytest.approx(0.875)
