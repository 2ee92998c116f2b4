"""Writes the transcript of a video as text, SubRip (srt), WebVTT (vtt) or JSON."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from rich.cells import cell_len, chop_cells

from encoders.values import Utterance
from serve.cli.render import TIME_DIGITS
from serve.text import clock, printable, to_json
from serve.values import Speaker, Video

TranscriptFormat = Literal["text", "srt", "vtt", "json"]

LINE_CHARS = 42  # longest line of a cue, in columns: the limit of subtitle guides (Netflix, BBC); readable on a phone
CUE_LINES = 2  # most lines of a cue
MIN_CUE_SECONDS = 0.5  # shortest time to read a cue; shorter cues are stretched into the silence after them
STEP_SECONDS = 0.001  # resolution of both formats: a cue must end at least so much after its start


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A subtitle: its time and its lines."""

    start_seconds: float
    end_seconds: float
    lines: tuple[str, ...]  # at most CUE_LINES of at most LINE_CHARS
    speaker: str = ""  # who says it; empty: not told apart


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A part of an utterance's text, with the space before it, and the time in which it is spoken."""

    text: str
    start_seconds: float
    end_seconds: float


def write_transcript(
    video: Video, utterances: Sequence[Utterance], format_: TranscriptFormat, speakers: Sequence[Speaker] = ()
) -> str:
    """Write a transcript in a format. The text and srt of a video without speech are empty.

    Args:
        speakers: Of the utterances; none: they are not told apart.
    """
    labels = {speaker.number: printable(speaker.label) for speaker in speakers}
    writers: dict[str, Callable[[], str]] = {
        "text": lambda: "".join(
            f"[{clock(each.start_seconds)}] {_spoken_by(each.speaker, labels)}{printable(each.text)}\n"
            for each in utterances
        ),
        "srt": lambda: to_srt(make_cues(utterances, labels)),
        "vtt": lambda: to_vtt(make_cues(utterances, labels)),
        "json": lambda: to_json(_transcript_json(video, utterances, speakers)).decode() + "\n",
    }
    return writers[format_]()


def _spoken_by(speaker: int, labels: Mapping[int, str]) -> str:
    return f"{labels[speaker]}: " if speaker in labels else ""


def _transcript_json(video: Video, utterances: Sequence[Utterance], speakers: Sequence[Speaker]) -> dict[str, Any]:
    names = {speaker.number: speaker.name for speaker in speakers}
    return {
        "video_id": video.video_id,
        "uri": video.uri,
        "utterances": [
            {
                "start_seconds": round(each.start_seconds, TIME_DIGITS),
                "end_seconds": round(each.end_seconds, TIME_DIGITS),
                "text": each.text,
                "language": each.language,
                "source": each.source.lower(),
                "spoken_language": each.spoken_language or each.language,
                "speaker": each.speaker or None,
                "speaker_name": names.get(each.speaker) or None,
                "words": [
                    {
                        "text": word.text,
                        "start_seconds": round(word.start_seconds, TIME_DIGITS),
                        "end_seconds": round(word.end_seconds, TIME_DIGITS),
                        "probability": round(word.probability, TIME_DIGITS),
                    }
                    for word in each.words
                ],
            }
            for each in utterances
        ],
    }


def to_srt(subtitles: Sequence[Cue]) -> str:
    """Write SubRip. Parsers take "-->" for a line of times, and the format has no escapes, so "->" replaces it.

    Where another speaker begins, the cue begins with their name, and may be a line longer for it.
    """
    blocks = []
    speaker = ""
    for number, cue in enumerate(subtitles, start=1):
        times = f"{_timestamp(cue.start_seconds, ',')} --> {_timestamp(cue.end_seconds, ',')}"
        named = [f"{cue.speaker}:", *cue.lines] if cue.speaker not in ("", speaker) else None
        lines = _balance_lines(" ".join(named)) if named else cue.lines
        speaker = cue.speaker
        text = "\n".join(lines).replace("-->", "->")
        blocks.append(f"{number}\n{times}\n{text}\n")
    return "\n".join(blocks)


def to_vtt(subtitles: Sequence[Cue]) -> str:
    """Write WebVTT, with the text of cues escaped. Source: https://www.w3.org/TR/webvtt1/"""
    blocks = ["WEBVTT\n"]
    for cue in subtitles:
        times = f"{_timestamp(cue.start_seconds, '.')} --> {_timestamp(cue.end_seconds, '.')}"
        text = "\n".join(html.escape(line, quote=False) for line in cue.lines)
        if cue.speaker:  # a voice span; the name may not hold its end
            text = f"<v {html.escape(cue.speaker, quote=False)}>{text}"
        blocks.append(f"{times}\n{text}\n")
    return "\n".join(blocks)


def _timestamp(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def make_cues(utterances: Sequence[Utterance], labels: Mapping[int, str] = MappingProxyType({})) -> list[Cue]:
    """Cut utterances into subtitles, in order of time. No subtitle is empty or overlaps the next.

    Args:
        labels: Names of the speakers, by number.
    """
    spoken = [(group, utterance.speaker) for utterance in utterances for group in _cut_into_cues(utterance)]
    spoken.sort(key=lambda each: each[0].start_seconds)
    timed = [group for group, _ in spoken]
    subtitles = []
    for index, (group, speaker) in enumerate(spoken):
        end = max(group.end_seconds, group.start_seconds + MIN_CUE_SECONDS)
        if index + 1 < len(timed):
            end = min(end, timed[index + 1].start_seconds)
        end = max(end, group.start_seconds + STEP_SECONDS)
        subtitles.append(
            Cue(
                start_seconds=group.start_seconds,
                end_seconds=end,
                lines=tuple(_balance_lines(group.text)),
                speaker=labels.get(speaker, ""),
            )
        )
    return subtitles


def _cut_into_cues(utterance: Utterance) -> Iterator[_Piece]:
    """Cut an utterance into parts of about equal length that each fit a cue."""
    pieces = list(_pieces(utterance))
    text = "".join(piece.text for piece in pieces)
    cue_count = -(-len(_wrap(text, LINE_CHARS)) // CUE_LINES)
    group: _Piece | None = None
    for piece in pieces:
        if group is None:
            group = piece
            continue
        joined = _Piece(text=group.text + piece.text, start_seconds=group.start_seconds, end_seconds=piece.end_seconds)
        # Each cue takes only its share of the text, so that the last cue is more than a single word.
        if len(group.text) * cue_count < len(text) and len(_wrap(joined.text, LINE_CHARS)) <= CUE_LINES:
            group = joined
        else:
            yield group
            group = piece
    if group is not None:
        yield group


def _pieces(utterance: Utterance) -> Iterator[_Piece]:
    """Yield the text word by word, each with its time. Joined, the parts are the whole text with its spaces."""
    text, cursor = printable(utterance.text), 0
    ends = []
    for word in utterance.words:
        start = text.find(printable(word.text), cursor)
        if start < 0 or not word.text.strip():
            continue  # the text of this word becomes part of the next word that is found
        cursor = start + len(printable(word.text))
        ends.append((cursor, word))
    if ends:
        ends[-1] = (len(text), ends[-1][1])
        start = 0
        for end, word in ends:
            yield from _split_long_text(text[start:end], word.start_seconds, word.end_seconds)
            start = end
    elif text:
        yield from _split_long_text(text, utterance.start_seconds, utterance.end_seconds)


def _split_long_text(text: str, start_seconds: float, end_seconds: float) -> Iterator[_Piece]:
    """Yield the text as a single part, or in lines if it is too long for a cue. Lines share the time by length."""
    lines = _wrap(text, LINE_CHARS)
    if len(lines) <= CUE_LINES:
        yield _Piece(text=text, start_seconds=start_seconds, end_seconds=end_seconds)
        return
    rate = (end_seconds - start_seconds) / sum(map(len, lines))
    for line in lines:
        yield _Piece(text=f" {line}", start_seconds=start_seconds, end_seconds=start_seconds + rate * len(line))
        start_seconds += rate * len(line)


def _wrap(text: str, width: int) -> list[str]:
    """Break a text at spaces into lines at most `width` columns wide, and elsewhere only where a line has no space.

    A letter of Chinese, Japanese or Korean takes two columns, and a combining mark none.
    """
    lines: list[str] = []
    for word in text.split():
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines += chop_cells(word, width)
    return lines


def _balance_lines(text: str) -> list[str]:
    """Break the text of a cue into lines of about equal length: easier to read than a full line and a stray word."""
    lines = _wrap(text, LINE_CHARS)
    narrowest = min(LINE_CHARS, max(2, -(-cell_len(text.strip()) // len(lines))))
    attempts = (_wrap(text, width) for width in range(narrowest, LINE_CHARS + 1))
    return next(attempt for attempt in attempts if len(attempt) <= len(lines))
