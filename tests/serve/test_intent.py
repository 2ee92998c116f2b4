"""What a question is about."""

import pytest

from serve.intent import read_intent

SPEECH, SIGHT, BOTH = (0.2, 0.8), (0.8, 0.2), (0.5, 0.5)


@pytest.mark.parametrize(
    ("question", "target", "weights"),
    [
        ("at what timestamp does the speaker mention Paris?", "Paris", SPEECH),
        ("when does the narrator talk about the ocean", "the ocean", SPEECH),
        ("In which video is coffee discussed?", "coffee", SPEECH),
        ("who says that the bridge is closed?", "the bridge is closed", SPEECH),
        ("salt is mentioned", "salt", SPEECH),
        ("find videos about hiking in Patagonia", "hiking in Patagonia", BOTH),
        ("the moment where he falls", "he falls", BOTH),
        ("where is the cat?", "the cat", BOTH),
        ("when does a dog appear?", "a dog", SIGHT),
        ("where can you see a rocket?", "a rocket", SIGHT),
        ("the scene with the red car", "the red car", SIGHT),
        ("a woman wearing a hat", "a woman wearing a hat", SIGHT),
        ("a woman doing yoga", "a woman doing yoga", BOTH),
        ("get an additional 20 percent off", "get an additional 20 percent off", BOTH),
        ("man showing his face to the camera", "man showing his face to the camera", BOTH),
        ("when", "when", BOTH),
        ("???", "???", BOTH),
    ],
)
def test_strips_the_scaffolding_and_finds_the_channel(question: str, target: str, weights: tuple[float, float]) -> None:
    intent = read_intent(question)
    assert intent.text == target
    assert (intent.visual_weight, intent.speech_weight) == pytest.approx(weights)


def test_quotation_marks_ask_for_the_words_themselves() -> None:
    intent = read_intent('who says "to be or not to be"?')
    assert intent.phrases == ("to be or not to be",)
    assert intent.text == "to be or not to be"
    assert intent.speech_weight > intent.visual_weight


@pytest.mark.parametrize(("channel", "weights"), [("visual", (1.0, 0.0)), ("speech", (0.0, 1.0))])
def test_the_callers_channel_wins(channel: str, weights: tuple[float, float]) -> None:
    intent = read_intent("when does she mention Paris?", channel)  # type: ignore[arg-type]
    assert (intent.visual_weight, intent.speech_weight) == weights
    assert intent.text == "Paris"
