"""Chapters and highlights as messages: nothing of them is lost on the way."""

from kinodex.v1 import library_service_pb2
from serve.codec.outlines import outline_message, outline_value
from temporal.values import Chapter, Highlight, Outline, TimeSpan

SPAN = TimeSpan(start_seconds=1.25, end_seconds=62.5)


def test_an_outline_comes_back_as_it_was() -> None:
    outline = Outline(
        chapters=(
            Chapter(span=SPAN, title="the sea", best_frame_seconds=0.0),
            Chapter(span=SPAN, title="", best_frame_seconds=None),
        ),
        highlights=(
            Highlight(span=SPAN, best_frame_seconds=2.5, transcript="It is the sea."),
            Highlight(span=SPAN, best_frame_seconds=None, transcript=""),
        ),
    )
    sent = outline_message(outline).SerializeToString()
    assert outline_value(library_service_pb2.GetChaptersResponse.FromString(sent)) == outline


def test_text_that_is_no_unicode_can_be_sent() -> None:
    chapter = Chapter(span=SPAN, title="a\udce9", best_frame_seconds=None)
    assert outline_message(Outline(chapters=(chapter,))).SerializeToString()
