"""Draws the surest wrong answers of `kinodex eval` as a contact sheet, with the right moment as a small picture."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps

from serve.cli.ask import make_cell
from serve.cli.eval_tables import right_text
from serve.cli.sheet import PICTURE_HEIGHT, PICTURE_WIDTH, SHADE, Cell, draw_sheet
from serve.client.any_library import AnyLibrary
from serve.evaluate.figures import wrong_figures
from serve.evaluate.queries import Reply
from serve.evaluate.questions import Question, names_of
from serve.text import plural
from serve.values import Moment

INSET_SHARE = 0.4  # of the width of a picture: its details can still be told
INSET_FRAME = "#2fbf71"


def draw_wrong(library: AnyLibrary, replies: Sequence[Reply]) -> Image.Image:
    """Draw the first answer of each reply. The right moment stands in its corner, framed in green."""
    videos = {name: video for video in library.videos() for name in names_of(video)}
    cells = []
    for reply in replies:
        assert reply.first is not None
        answer = reply.first.answer
        assert isinstance(answer, Moment)
        said = f"; said here: {answer.transcript}" if answer.transcript else ""
        note = right_text(wrong_figures(reply)["right"]) + said
        moment = dataclasses.replace(answer, transcript=note, matched_words=())
        cell = make_cell(library, moment, question=reply.question.text)
        cells.append(_with_right_picture(library, cell, reply.question, videos))
    title = f"The surest wrong answers: {plural(len(cells), 'question')}"
    return draw_sheet(title, cells, subtitle="most confident first; in the green frame: the middle of a right moment")


def _with_right_picture(library: AnyLibrary, cell: Cell, question: Question, videos: dict[str, Any]) -> Cell:
    """Lay the picture of the right moment over the corner of the answer's, where both have pictures."""
    if question.file is None or cell.picture is None:
        return cell
    video, span = videos[question.file], question.spans[0]
    middle = (span.start_seconds + span.end_seconds) / 2
    right = dataclasses.replace(
        cell.moment, video_id=video.video_id, collection=video.collection, best_frame_seconds=middle
    )
    inset = make_cell(library, right).picture
    if inset is None:
        return cell
    return dataclasses.replace(cell, picture=lay_over(cell.picture, inset))


def lay_over(picture: bytes, inset: bytes) -> bytes:
    """Lay a smaller picture over the lower right corner of another, framed in green; return a PNG."""
    size = (PICTURE_WIDTH, PICTURE_HEIGHT)
    with Image.open(io.BytesIO(picture)) as below, Image.open(io.BytesIO(inset)) as above:
        whole = Image.new("RGB", size, SHADE)
        fitted = ImageOps.contain(below.convert("RGB"), size)
        whole.paste(fitted, ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2))
        small = ImageOps.contain(above.convert("RGB"), (round(size[0] * INSET_SHARE), round(size[1] * INSET_SHARE)))
        framed = ImageOps.expand(small, border=2, fill=INSET_FRAME)
        whole.paste(framed, (size[0] - framed.width, size[1] - framed.height))
    file = io.BytesIO()
    whole.save(file, format="PNG")
    return file.getvalue()
