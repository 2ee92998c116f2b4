"""Reads the intent of a question: its target without the question's form, and the channel that it names.

"when does the speaker mention Paris?" asks for speech about Paris. Encoders were trained on captions, and the form of a
question alone costs a fifth of recall@1 or more (FLARE, https://github.com/YqjMartin/FLARE). Rules, not a language
model: they cost nothing and can be read.
"""

import re
from dataclasses import dataclass

from serve.catalog.spelling import content_terms
from serve.search.ordinals import read_ordinal
from serve.values import Channel

# Of the channel that a question names; the other channel has the rest. Both speech channels at full trust stay below
# the visual channel at its least (serve.search.ranking.MIN_VISUAL_TRUST).
NAMED_WEIGHT = 0.85
EQUAL_WEIGHT = 0.5  # of all channels if a question names none

MOMENT_NOUN = (
    r"(?!(?:time|second|minute|point|place)s?\s+of\b)(?:timestamp|time|second|minute|moment|point|part|bit|passage|place|section|segment|scene|shot|clip|video)s?"
    r"(?:\s+in\s+the\s+video)?"
)
OPENING = re.compile(
    r"^(?:(?:please|can you|could you|i want to|i'd like to|i remember)\s+)*"
    r"(?:(?:(?:show|give|tell|get|take)\s+(?:me|us)(?:\s+to)?|(?:search|look)\s+for|find(?:\s+(?:me|us))?"
    r"|(?:skip|jump|go)\s+to|(?:is|are)\s+there(?=\s+(?:an?|any|some|anything)\b)|do\s+you\s+have)\s+)?"
    rf"(?:(?:(?:at|in|from|to)\s+)?(?:what|which)\s+(?:exact\s+)?{MOMENT_NOUN}\s+(?:(?:has|have|shows?)\s+)?"
    rf"|(?:(?:all|the|that|this|an?|any|some)\s+)*(?:exact\s+)?{MOMENT_NOUN}"
    r"\s+(?:where|when|in\s+which|at\s+which|that|about|on|of|with)\s+"
    r"|(?:anything|something)\s+(?:about|on|with)\s+"
    r"|(?:when|where|who)(?:\s+in\s+the\s+video)?(?:'s|\s+is|\s+are|\s+was|\s+were)?\s+)?",
    re.IGNORECASE,
)
SPEAKER = (
    r"(?:(?:the|a|an|any|some)\s+)?(?:speakers?|narrators?|presenters?|hosts?|commentators?|announcers?|lecturers?"
    r"|teachers?|assistants?|interviewers?|people|persons?|man|woman|guy|voices?|somebody|someone|anybody|anyone"
    r"|he|she|they|it|we|you|i)"
)
SPEECH_VERB = (
    r"(?:(?:say(?:s|ing)?|said|mention(?:s|ed|ing)?|discuss(?:es|ed|ing)?"
    r"|explain(?:s|ed|ing)?|describe(?:s|d)?|describing|name(?:s|d)?|naming|quote(?:s|d)?|tell(?:s|ing)?|told"
    r"|refer(?:s|red)?\s+to|ask(?:s|ed|ing)?|announce(?:s|d)?|answer(?:s|ed)?|recite(?:s|d)?)"
    r"(?:\s+(?:us|me|them|people))?(?:\s+(?:about|that|of|on))?"
    r"|(?:talk(?:s|ed|ing)?|speak(?:s|ing)?|spoke)(?:\s+to\s+(?:us|me|them|people))?\s+(?:about|of))"
)
SPEECH_QUESTION = re.compile(
    rf"^(?:what\s+)?(?:(?:does|do|did|is|are|was|were|can|has|have)\s+)?(?:{SPEAKER}\s+)?(?:is\s+|are\s+)?(?P<verb>{SPEECH_VERB})"
    r"\s+(?P<what>.+)$",
    re.IGNORECASE,
)
SIGHT_AND_SPEECH = re.compile(
    r"^(?P<shown>.{3,}?)(?:\s*[,;]\s*(?:and\s+|where\s+|when\s+|while\s+)?|\s+(?:and|where|when|while)\s+)"
    rf"(?:(?:does|do|did|is|are)\s+)?{SPEAKER}\s+(?:is\s+|are\s+)?{SPEECH_VERB}\s+(?P<said>.+)$",
    re.IGNORECASE,
)
PASSIVE_SPEECH = re.compile(
    r"^(?:(?:is|are|was|were)\s+)?(?P<what>.+?)\s+(?:is|are|was|were|gets?|being)?\s*"
    r"(?:mentioned|explained|discussed|said|described|named|talked\s+about|spoken\s+(?:of|about))"
    r"(?:\s+(?:in|by)\s+.+)?$",
    re.IGNORECASE,
)
SIGHT_QUESTION = re.compile(
    rf"^(?:(?:does|do|did|can|is|are)\s+)?(?:{SPEAKER}\s+)?(?:(?:can\s+)?(?:be\s+)?"
    r"(?:see|sees|seen|show|shows|shown|showing|appears?|visible))\s+(?P<what>.+)$",
    re.IGNORECASE,
)
PASSIVE_SIGHT = re.compile(
    r"^(?:(?:does|do|did|can|is|are)\s+)?(?P<what>.+?)\s+(?:appears?|(?:be\s+)?(?:seen|shown|visible)|on\s+screen)$",
    re.IGNORECASE,
)
# Remains of a question at either end of the target.
AUXILIARY = re.compile(r"^(?:does|do|did)\s+|\s+in\s+it$", re.IGNORECASE)
SIGHT_WORDS = re.compile(
    r"\b(?:wearing|scene|shot|footage|picture|photo|image|slide|screen|close-up|drawing|cartoon|logo|title\s+card"
    r"|silhouettes?)\b",
    re.IGNORECASE,
)
# Names writing, in a question or a caption: "the slide that says agenda", "a sign reading exit".
WRITING = (
    r"(?:slides?|signs?|captions?|subtitles?|titles?|headlines?|banners?|posters?|labels?|stickers?|logos?|credits|screens?"
    r"|pages?|lines?|boards?|letters|words|texts?|bullet\s+points?|numbers?|scoreboards?|timers?|clocks?|menus?|commands?)"
)
WRITTEN_QUESTION = re.compile(
    rf"^(?:(?:does|do|is|are)\s+)?(?:(?:the|a|an|any|some|first|last|title)\s+)*{WRITING}(?:\s+(?:that|which))?\s+"
    r"(?:says?|saying|reads?|reading|tells?|telling(?:\s+us)?|shows?|shown|showing|lists?|listing|mentions?|mentioning"
    r"|with|about|of|on)\s+(?:the\s+words?\s+)?(?P<what>.+?)(?:\s+(?:come\s+up|appear|show\s+up))?$"
    r"|^(?:does\s+it\s+|is\s+it\s+)?(?:says?|is\s+written|reads?)\s+(?P<written>.+)$",
    re.IGNORECASE,
)
# Asks to be told something: people say the answer more often than it is shown.
INFORMATION = re.compile(r"^(?:how|why|whose)\b", re.IGNORECASE)
# Words of sentences and questions that captions of pictures seldom have: pronouns, question words and auxiliary verbs.
SENTENCE_WORD = re.compile(
    r"\b(?:i|you|he|she|it|we|they|me|him|us|them"
    r"|how|why|what|who|whose|which|when|where|whether|if"
    r"|am|is|are|was|were|be|been|do|does|did|has|have|had"
    r"|can|could|will|would|shall|should|may|might|must)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
# Names a speaker by number: "the second speaker", "speaker 2".
SPEAKER_NUMBER = re.compile(
    r"\b(?:the\s+)?(?:(?P<ordinal>first|second|third|fourth|fifth|\d{1,3}(?:st|nd|rd|th))\s+speaker"
    r"|speaker\s+(?:number\s+)?(?P<number>one|two|three|four|five|\d{1,3}))\b(?!['\u2019])",
    re.IGNORECASE,
)
SPEAKER_NUMBERS = {
    word: str(number)
    for words in ("first second third fourth fifth", "one two three four five")
    for number, word in enumerate(words.split(), start=1)
}
QUOTED = re.compile(r"[\"“”«»]([^\"“”«»]{2,})[\"“”«»]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a question asks for, in the form of a caption."""

    text: str  # the target; empty only for a query without text
    speech_text: str  # target of the speech channels: equal to text, unless the question names one thing seen, one said
    phrases: tuple[str, ...]  # phrases in quotation marks, which are looked for literally
    visual_weight: float  # 0..1
    speech_weight: float  # 0..1; the two add up to 1, or to 0 if only text is asked for
    occurrence: int | None = None  # which of several moments: 1 is the first in its video, -1 the last; None: the best
    text_weight: float = 0.0  # 0..1, of what is written in pictures
    written_text: str = ""  # target of the text channel: without the words that name writing
    names_text: bool = False  # whether it asks for writing, or quotes it
    is_empty: bool = False  # a text that asks for nothing, such as "the": no answer matches it

    @property
    def sentence_word_count(self) -> int:
        """Distinct words by which speech_text is a sentence, not a caption: it asks for words rather than a sight."""
        return len({word.lower() for word in SENTENCE_WORD.findall(self.speech_text)})


def read_intent(text: str, channel: Channel = "all") -> Intent:
    """Remove the form of a question from its text, and find the channel that it names.

    A caption is returned as it is, with equal weights. `channel` overrides the channel that the text names; of a
    question for one thing seen and another said, only the part for that channel then counts.
    """
    plain = " ".join(text.split())
    phrases = tuple(match.strip() for match in QUOTED.findall(plain))
    target, occurrence = read_ordinal(plain.rstrip(" ?!."))
    rest = OPENING.sub("", target, count=1).strip() or target
    is_question = rest != target
    visual, speech = EQUAL_WEIGHT, EQUAL_WEIGHT
    speech_text: str | None = None
    written_weight = EQUAL_WEIGHT
    written = WRITTEN_QUESTION.match(rest)
    spoken = SPEECH_QUESTION.match(rest)
    if spoken and not is_question and spoken["verb"].split()[0].lower().endswith("ing"):
        spoken = None  # "a person explaining a drawing" is a caption
    if spoken := spoken or PASSIVE_SPEECH.match(rest):
        rest, visual, speech = spoken["what"], 1 - NAMED_WEIGHT, NAMED_WEIGHT
    elif both := SIGHT_AND_SPEECH.match(rest):
        rest, speech_text = both["shown"], both["said"]
    elif is_question and (seen := SIGHT_QUESTION.match(rest) or PASSIVE_SIGHT.match(rest)):
        rest, visual, speech = seen["what"], NAMED_WEIGHT, 1 - NAMED_WEIGHT
    elif phrases or (INFORMATION.match(target) and not SIGHT_WORDS.search(target)):
        visual, speech = 1 - NAMED_WEIGHT, NAMED_WEIGHT
    elif SIGHT_WORDS.search(target):
        visual, speech = NAMED_WEIGHT, 1 - NAMED_WEIGHT
    if written or phrases:
        written_weight = NAMED_WEIGHT
    if is_question:
        rest = AUXILIARY.sub("", rest)
    if channel != "all":
        visual, speech, written_weight = (float(channel == name) for name in ("visual", "speech", "text"))
    text = _strip_marks(rest) or plain
    said = _strip_marks(speech_text or "") or text
    return Intent(
        text=text,
        speech_text=said,
        phrases=phrases,
        visual_weight=visual,
        speech_weight=speech,
        occurrence=occurrence,
        text_weight=written_weight,
        written_text=_strip_marks((written["what"] or written["written"]) if written else "") or said,
        names_text=bool(written or phrases),
        is_empty=not content_terms(text) and not phrases,
    )


def read_speaker(text: str) -> tuple[str, str]:
    """Return a question without the number of the speaker that it asks for, and that number.

    "what does the second speaker say about Paris?" becomes "what does the speaker say about Paris?" and "2". Any other
    text is returned as it is, with an empty number.
    """
    named = SPEAKER_NUMBER.search(text)
    if named is None:
        return text, ""
    rest = SPEAKER_NUMBER.sub("the speaker", text, count=1)
    if not SPEECH_QUESTION.match(OPENING.sub("", rest.strip().rstrip(" ?!."), count=1).strip()):
        return text, ""
    word = (named["ordinal"] or named["number"]).lower()
    return rest, SPEAKER_NUMBERS.get(word) or word.rstrip("stndrh")


def _strip_marks(text: str) -> str:
    """Remove quotation marks, and punctuation at both ends."""
    return QUOTED.sub(r"\1", text).strip(" ?!.,:;\"'")
