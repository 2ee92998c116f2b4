"""temporal.values.Outline <-> kinodex.v1.GetChaptersResponse."""

from kinodex.v1 import library_service_pb2
from serve.codec.fields import duration_field, duration_message, escape_surrogates, span_message, span_value
from temporal.values import Chapter, Highlight, Outline, TimeSpan


def outline_message(outline: Outline) -> library_service_pb2.GetChaptersResponse:
    response = library_service_pb2.GetChaptersResponse()
    for chapter in outline.chapters:
        _write_place(response.chapters.add(title=escape_surrogates(chapter.title)), chapter)
    for highlight in outline.highlights:
        _write_place(response.highlights.add(transcript=escape_surrogates(highlight.transcript)), highlight)
    return response


def outline_value(response: library_service_pb2.GetChaptersResponse) -> Outline:
    return Outline(
        chapters=tuple(
            Chapter(span=_span(each), title=each.title, best_frame_seconds=duration_field(each, "best_frame_offset"))
            for each in response.chapters
        ),
        highlights=tuple(
            Highlight(
                span=_span(each),
                best_frame_seconds=duration_field(each, "best_frame_offset"),
                transcript=each.transcript,
            )
            for each in response.highlights
        ),
    )


def _write_place(
    message: library_service_pb2.Chapter | library_service_pb2.Highlight, part: Chapter | Highlight
) -> None:
    message.span.CopyFrom(span_message(part.span.start_seconds, part.span.end_seconds))
    if part.best_frame_seconds is not None:
        message.best_frame_offset.CopyFrom(duration_message(part.best_frame_seconds))


def _span(message: library_service_pb2.Chapter | library_service_pb2.Highlight) -> TimeSpan:
    start, end = span_value(message.span)
    return TimeSpan(start_seconds=start, end_seconds=end)
