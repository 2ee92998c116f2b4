"""What a question is about, without its scaffolding: "when does the speaker mention Paris?" is about Paris, and said.

People ask questions and encoders were trained on captions; the question's form alone costs a fifth of recall@1 or more
(FLARE, https://github.com/YqjMartin/FLARE). Rules, not a language model: they cost nothing and can be read.
"""

import re
from dataclasses import dataclass

from serve.values import Channel

SAID = 0.8  # weight of the channel that the question names (design §10)
EQUAL_WEIGHT = 0.5

PLACE = (
    r"(?!(?:time|second|minute|point|place)s?\s+of\b)(?:timestamp|time|second|minute|moment|point|part|bit|passage|place|section|segment|scene|shot|clip|video)s?"
    r"(?:\s+in\s+the\s+video)?"
)
ASKING = re.compile(
    r"^(?:(?:please|can you|could you|i want to|i'd like to|i remember)\s+)*"
    r"(?:(?:(?:show|give|tell|get|take)\s+(?:me|us)(?:\s+to)?|(?:search|look)\s+for|find(?:\s+(?:me|us))?"
    r"|(?:skip|jump|go)\s+to|(?:is|are)\s+there(?=\s+(?:an?|any|some|anything)\b)|do\s+you\s+have)\s+)?"
    rf"(?:(?:(?:at|in|from|to)\s+)?(?:what|which)\s+(?:exact\s+)?{PLACE}\s+(?:(?:has|have|shows?)\s+)?"
    rf"|(?:(?:all|the|that|this|an?|any|some)\s+)*(?:exact\s+)?{PLACE}"
    r"\s+(?:where|when|in\s+which|at\s+which|that|about|on|of|with)\s+"
    r"|(?:anything|something)\s+(?:about|on|with)\s+"
    r"|(?:when|where|who)(?:\s+in\s+the\s+video)?(?:'s|\s+is|\s+are|\s+was|\s+were)?\s+)?",
    re.IGNORECASE,
)
WHO = (
    r"(?:(?:the|a|an|any|some)\s+)?(?:speakers?|narrators?|presenters?|hosts?|commentators?|announcers?|lecturers?"
    r"|teachers?|assistants?|interviewers?|people|persons?|man|woman|guy|voices?|somebody|someone|anybody|anyone"
    r"|he|she|they|it|we|you|i)"
)
SAYS = (
    r"(?:(?:say(?:s|ing)?|said|mention(?:s|ed|ing)?|discuss(?:es|ed|ing)?"
    r"|explain(?:s|ed|ing)?|describe(?:s|d)?|describing|name(?:s|d)?|naming|quote(?:s|d)?|tell(?:s|ing)?|told"
    r"|refer(?:s|red)?\s+to|ask(?:s|ed|ing)?|announce(?:s|d)?|answer(?:s|ed)?|recite(?:s|d)?)"
    r"(?:\s+(?:us|me|them|people))?(?:\s+(?:about|that|of|on))?"
    r"|(?:talk(?:s|ed|ing)?|speak(?:s|ing)?|spoke)(?:\s+to\s+(?:us|me|them|people))?\s+(?:about|of))"
)
SPOKEN = re.compile(
    rf"^(?:what\s+)?(?:(?:does|do|did|is|are|was|were|can|has|have)\s+)?(?:{WHO}\s+)?(?:is\s+|are\s+)?(?P<verb>{SAYS})"
    r"\s+(?P<what>.+)$",
    re.IGNORECASE,
)
SHOWN_AND_SPOKEN = re.compile(
    r"^(?P<shown>.{3,}?)(?:\s*[,;]\s*(?:and\s+|where\s+|when\s+|while\s+)?|\s+(?:and|where|when|while)\s+)"
    rf"(?:(?:does|do|did|is|are)\s+)?{WHO}\s+(?:is\s+|are\s+)?{SAYS}\s+(?P<said>.+)$",
    re.IGNORECASE,
)
SPOKEN_AFTER = re.compile(
    r"^(?:(?:is|are|was|were)\s+)?(?P<what>.+?)\s+(?:is|are|was|were|gets?|being)?\s*"
    r"(?:mentioned|explained|discussed|said|described|named|talked\s+about|spoken\s+(?:of|about))"
    r"(?:\s+(?:in|by)\s+.+)?$",
    re.IGNORECASE,
)
SEEN = re.compile(
    rf"^(?:(?:does|do|did|can|is|are)\s+)?(?:{WHO}\s+)?(?:(?:can\s+)?(?:be\s+)?"
    r"(?:see|sees|seen|show|shows|shown|showing|appears?|visible))\s+(?P<what>.+)$",
    re.IGNORECASE,
)
APPEARING = re.compile(
    r"^(?:(?:does|do|did|can|is|are)\s+)?(?P<what>.+?)\s+(?:appears?|(?:be\s+)?(?:seen|shown|visible)|on\s+screen)$",
    re.IGNORECASE,
)
DOES = re.compile(r"^(?:does|do|did)\s+|\s+in\s+it$", re.IGNORECASE)  # what a question leaves of itself
SEEN_WORDS = re.compile(
    r"\b(?:wearing|scene|shot|footage|picture|photo|image|slide|screen|close-up|drawing|cartoon)\b", re.IGNORECASE
)
QUOTED = re.compile(r"[\"“”«»]([^\"“”«»]{2,})[\"“”«»]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A question as the encoders want it."""

    text: str  # the target, in caption form; never empty
    speech_text: str  # what is to be heard: the same, unless the question asks for one thing seen and another said
    phrases: tuple[str, ...]  # what stood in quotation marks: to be found word for word
    visual_weight: float  # 0..1
    speech_weight: float


def read_intent(text: str, channel: Channel = "all") -> Intent:
    """Strip a question's scaffolding and say which channel it speaks of.

    A text that is a caption already comes back as it is, with both channels equal. The caller's own channel wins, and
    a question for one thing seen and another said is then about the one of them.
    """
    plain = " ".join(text.split())
    phrases = tuple(match.strip() for match in QUOTED.findall(plain))
    target = plain.rstrip(" ?!.")
    rest = ASKING.sub("", target, count=1).strip() or target
    is_asked = rest != target
    visual, speech = EQUAL_WEIGHT, EQUAL_WEIGHT
    heard: str | None = None
    said = SPOKEN.match(rest)
    if said and not is_asked and said["verb"].split()[0].lower().endswith("ing"):
        said = None  # "a person explaining a drawing" is a caption
    if said := said or SPOKEN_AFTER.match(rest):
        rest, visual, speech = said["what"], 1 - SAID, SAID
    elif both := SHOWN_AND_SPOKEN.match(rest):
        rest, heard = both["shown"], both["said"]
    elif is_asked and (seen := SEEN.match(rest) or APPEARING.match(rest)):
        rest, visual, speech = seen["what"], SAID, 1 - SAID
    elif phrases:
        visual, speech = 1 - SAID, SAID
    elif SEEN_WORDS.search(target):
        visual, speech = SAID, 1 - SAID
    if is_asked:
        rest = DOES.sub("", rest)
    if channel == "visual":
        visual, speech = 1.0, 0.0
    elif channel == "speech":
        visual, speech = 0.0, 1.0
    text = _bare(rest) or plain
    return Intent(
        text=text, speech_text=_bare(heard or "") or text, phrases=phrases, visual_weight=visual, speech_weight=speech
    )


def _bare(text: str) -> str:
    """Take the quotation marks off, and what stands at the ends."""
    return QUOTED.sub(r"\1", text).strip(" ?!.,:;\"'")
