"""Messages with subtitles: a child that has read untrusted bytes is untrusted itself."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ingest.config import DecodeConfig
from ingest.sandbox.protocol import MalformedMessage, Message, from_message, to_message
from ingest.subtitles.limits import MAX_COUNT, MAX_TEXT_CHARS
from ingest.values import Subtitle, SubtitleTrack

TRACK = SubtitleTrack(
    name="track 3", codec="subrip", language="eng", kind="forced", is_default=True, refused_count=2, is_cut=True,
    subtitles=(Subtitle(1.0, 2.5, "Where?"), Subtitle(3.0, 4.0, "می\u200cروم")),
)  # fmt: skip


def test_a_track_comes_back_as_it_was_sent() -> None:
    for track in (TRACK, replace(TRACK, subtitles=(), is_text=False, language=None, problem="it has no subtitles")):
        assert from_message(to_message(track), DecodeConfig()) == track


@pytest.mark.parametrize(
    "subtitles",
    [
        None,
        {},
        "text",
        [[1.0, 2.0]],
        [[2.0, 1.0, "backward"]],
        [[-1.0, 1.0, "negative"]],
        [[1.0, None, "no end"]],
        [[1.0, 2.0, ""]],
        [[1.0, 2.0, 5]],
        [[1.0, 2.0, "two\nlines"]],
        [[1.0, 2.0, "bidi \u202e"]],
        [[1.0, 2.0, "x" * (MAX_TEXT_CHARS + 1)]],
        [[3.0, 4.0, "late"], [1.0, 2.0, "out of order"]],
        [[1.0, 2.0, "many"]] * (MAX_COUNT + 1),
    ],
)
def test_subtitles_that_break_the_protocol_are_refused(subtitles: Any) -> None:
    message = replace(to_message(TRACK), payload=json.dumps(subtitles).encode())
    with pytest.raises(MalformedMessage):
        from_message(message, DecodeConfig())


@pytest.mark.parametrize(
    "changed",
    [{"kind": "other"}, {"name": 5}, {"name": "x" * 2000}, {"codec": "a\nb"}, {"refused_count": -1}, {"problem": None}],
)
def test_facts_that_break_the_protocol_are_refused(changed: dict[str, Any]) -> None:
    sent = to_message(TRACK)
    facts = {**sent.fields["facts"], **changed}
    with pytest.raises(MalformedMessage):
        from_message(Message(kind=sent.kind, fields={"facts": facts}, payload=sent.payload), DecodeConfig())


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[" * 5000, b"nan"])
def test_bytes_that_are_no_json_are_refused(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        from_message(replace(to_message(TRACK), payload=payload), DecodeConfig())
