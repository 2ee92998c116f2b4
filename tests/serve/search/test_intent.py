"""The intent of a question: its target and its channel."""

import pytest

from serve.search.intent import read_intent, read_speaker

SPEECH, SIGHT, BOTH = (0.15, 0.85), (0.85, 0.15), (0.5, 0.5)


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
        ("who talks about Paris", "Paris", SPEECH),
        ("what do they say about the budget?", "the budget", SPEECH),
        ("how big is the discount?", "how big is the discount", SPEECH),
        ("why does our planet keep circling?", "why does our planet keep circling", SPEECH),
        ("how many people are in the picture?", "how many people are in the picture", SIGHT),
        ("where in the video is the merger discussed?", "the merger", SPEECH),
        ("skip to where they talk about money", "money", SPEECH),
        ("the part where a dog jumps", "a dog jumps", BOTH),
        ("the bit about inflation", "inflation", BOTH),
        ("that part with the explosion", "the explosion", BOTH),
        ("is there a moment with a dragon in it?", "a dragon", BOTH),
        ("is there anything about whales", "whales", BOTH),
        ("what part has the explosion?", "the explosion", BOTH),
        ("when does the dog jump?", "the dog jump", BOTH),
        ("I remember a scene with a red car", "a red car", SIGHT),
        ("shot of a beach at night", "a beach at night", SIGHT),
        ("point of view of a driver", "point of view of a driver", BOTH),
        ("what a wonderful day", "what a wonderful day", BOTH),
        ("going to school", "going to school", BOTH),
        ("a man talking on the phone", "a man talking on the phone", BOTH),
        ("a woman talking to a child", "a woman talking to a child", BOTH),
        ("someone telling a joke", "someone telling a joke", BOTH),
        ("where is somebody telling a joke?", "a joke", SPEECH),
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


@pytest.mark.parametrize(
    ("question", "shown", "said"),
    [
        ("a slide with a chart, and somebody says revenue fell", "a slide with a chart", "revenue fell"),
        ("in the cooking video, when does she mention salt?", "in the cooking video", "salt"),
        ("the part where a dog jumps while the narrator talks about Paris", "a dog jumps", "Paris"),
    ],
)
def test_a_question_may_be_for_one_thing_seen_and_another_said(question: str, shown: str, said: str) -> None:
    intent = read_intent(question)
    assert (intent.text, intent.speech_text) == (shown, said)
    assert (intent.visual_weight, intent.speech_weight) == BOTH


def test_other_questions_are_for_one_thing() -> None:
    for question in ("a red car and a dog", "when does she mention Paris?", "people dancing and someone singing"):
        intent = read_intent(question)
        assert intent.speech_text == intent.text


@pytest.mark.parametrize(
    ("question", "is_empty"),
    [
        ("the", True),
        ("It", True),
        ("when does she say it?", True),
        ("...?!", True),
        ("to be or not to be", False),
        ('when does he say "it"?', False),
        ("the cat", False),
        ("猫", False),
    ],
)
def test_a_few_stop_words_alone_ask_for_nothing(question: str, is_empty: bool) -> None:
    assert read_intent(question).is_empty is is_empty


@pytest.mark.parametrize(
    ("question", "count"),
    [
        ("a boy in a red jacket at a telescope", 0),
        ("when do you see the sun?", 0),  # the form of the question is not counted
        ("she is looking for somebody", 2),
        ("is it, is it, is it the blood vessels?", 2),
        ("It wasn\u2019t Alzheimer's", 2),
    ],
)
def test_pronouns_question_words_and_auxiliaries_make_a_sentence(question: str, count: int) -> None:
    assert read_intent(question).sentence_word_count == count


@pytest.mark.parametrize(
    ("question", "written"),
    [
        ("the slide that says thank you", "thank you"),
        ("when does the slide about sleep come up?", "sleep"),
        ("a sign reading no entry", "no entry"),
        ("where does it say closing date", "closing date"),
        ("the words about revenge", "revenge"),
        ("the timer shows three seconds", "three seconds"),
    ],
)
def test_a_question_for_writing_names_its_words(question: str, written: str) -> None:
    intent = read_intent(question)
    assert (intent.written_text, intent.names_text, intent.text_weight) == (written, True, 0.85)


def test_a_quotation_may_be_written_and_a_sight_is_searched_for_in_text_too() -> None:
    quoted, sight = read_intent('"happy birthday"'), read_intent("a red car")
    assert (quoted.written_text, quoted.names_text) == ("happy birthday", True)
    assert (sight.written_text, sight.names_text, sight.text_weight) == ("a red car", False, 0.5)


def test_the_channel_text_asks_for_nothing_else() -> None:
    only, seen = read_intent("a red car", "text"), read_intent("the slide that says thank you", "visual")
    assert (only.visual_weight, only.speech_weight, only.text_weight) == (0.0, 0.0, 1.0)
    assert seen.text_weight == 0.0


@pytest.mark.parametrize(
    ("question", "rest", "speaker"),
    [
        ("what does the second speaker say about Paris?", "what does the speaker say about Paris?", "2"),
        ("When does speaker 3 mention the budget?", "When does the speaker mention the budget?", "3"),
        ("where does the 12th speaker talk about cats", "where does the speaker talk about cats", "12"),
        ("what did speaker two explain about cats", "what did the speaker explain about cats", "2"),
        ("the second speaker on a stage", "the second speaker on a stage", ""),  # a sight
        ("when does the second speaker's phone ring?", "when does the second speaker's phone ring?", ""),
        ("when does the speaker mention the second time?", "when does the speaker mention the second time?", ""),
        ("", "", ""),
    ],
)
def test_reads_the_speaker_that_a_question_names(question: str, rest: str, speaker: str) -> None:
    assert read_speaker(question) == (rest, speaker)
