"""Draws the contact sheet of --sheet: the answers of a query as one picture, to be judged at a glance."""

import contextlib
import functools
import importlib.util
import io
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from serve.cli.render import score_text, snippet, word_pattern, written_excerpt
from serve.text import DASH, printable, time_span, title
from serve.values import Moment, Verdict

# Lengths in pixels. The picture of a cell is 16:9 and a little larger than the stored thumbnails, which are 180 high.
PICTURE_WIDTH, PICTURE_HEIGHT = 352, 198
MARGIN = 16  # around cells
PADDING = 12  # inside a cell
LINE_HEIGHT = 20
TITLE_SIZE, TEXT_SIZE = 26, 15  # sizes of the fonts; 15 is still readable when the sheet is shown at half size
TRANSCRIPT_LINES = 3
HEADER_HEIGHT = 76
CELL_HEIGHT = PICTURE_HEIGHT + 2 * PADDING + LINE_HEIGHT * (2 + TRANSCRIPT_LINES) + 6
MAX_COLUMNS = 4  # 1,488 px wide: fits on a screen
MAX_CELLS = 100  # 8,600 px high; about 40 MB of memory while it is drawn

PAPER, CARD, SHADE = "#14161a", "#1f232a", "#0b0c0f"
INK, DIM, ACCENT = "#f2f3f5", "#98a0ad", "#ffd166"
VERDICT_COLOURS = {Verdict.MATCH: "#2fbf71", Verdict.WEAK: "#e0a526", Verdict.NO_MATCH: "#6b7280"}

# Tried in this order for letters that Pillow's own font (Latin without accents) lacks. Fonts not installed are skipped.
OTHER_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "arial.ttf",
)
# Matplotlib comes with DejaVu Sans: Greek, Cyrillic, Hebrew, Arabic and more. A letter that no font has is drawn as a
# font's sign for missing letters.
_matplotlib = importlib.util.find_spec("matplotlib")
MATPLOTLIB_FONTS = Path(str(_matplotlib.origin if _matplotlib else "")).parent / "mpl-data" / "fonts" / "ttf"
NO_LETTER = "\uffff"  # no font has this letter: it is drawn as the font's sign for missing letters

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of the sheet: an answer and its picture."""

    moment: Moment
    picture: bytes | None  # thumbnail of the best frame, a JPEG; None: the video has only sound
    question: str = ""  # that it answers, if the cells of a sheet answer several


def draw_sheet(query: str, cells: Sequence[Cell], subtitle: str | None = None) -> Image.Image:
    """Draw the cells in order, each with picture, time, verdict, file name and words. The image is RGB.

    Args:
        subtitle: The second line; None: how many answers there are.
    """
    drawn = cells[:MAX_CELLS]
    # As many columns as rows, but at least 2 for the words of the header.
    columns = max(2, min(MAX_COLUMNS, math.ceil(math.sqrt(len(drawn)))))
    rows = max(1, math.ceil(len(drawn) / columns))
    width = MARGIN + columns * (PICTURE_WIDTH + MARGIN)
    sheet = Image.new("RGB", (width, HEADER_HEIGHT + rows * (CELL_HEIGHT + MARGIN)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_line(draw, (MARGIN, 14), printable(query)[:200], TITLE_SIZE, INK, width - 2 * MARGIN)
    _draw_line(draw, (MARGIN, 48), subtitle or _count_answers(cells), TEXT_SIZE, DIM, width - 2 * MARGIN)
    for index, cell in enumerate(drawn):
        row, column = divmod(index, columns)
        corner = (MARGIN + column * (PICTURE_WIDTH + MARGIN), HEADER_HEIGHT + row * (CELL_HEIGHT + MARGIN))
        _draw_cell(sheet, draw, corner, cell, number=index + 1)
    return sheet


def _count_answers(cells: Sequence[Cell]) -> str:
    if not cells:
        return "nothing found"
    count = "1 answer" if len(cells) == 1 else f"{len(cells)} answers, best first"
    if len(cells) > MAX_CELLS:
        count += f"; the first {MAX_CELLS} are shown"
    if all(cell.moment.verdict is Verdict.NO_MATCH for cell in cells):
        return f"no confident answer; the nearest: {count}"
    return count


def _draw_cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], cell: Cell, *, number: int
) -> None:
    moment, (left, top) = cell.moment, corner
    draw.rounded_rectangle((left, top, left + PICTURE_WIDTH - 1, top + CELL_HEIGHT - 1), 6, fill=CARD)
    _draw_picture(sheet, draw, corner, cell.picture)
    label = f"{number}  {printable(cell.question)}" if cell.question else f"{number}"
    _draw_line(draw, (left + 8, top + 6), label, TEXT_SIZE, INK, PICTURE_WIDTH - 16, backdrop=SHADE)

    room = PICTURE_WIDTH - 2 * PADDING
    x, y = left + PADDING, top + PICTURE_HEIGHT + PADDING
    badge = f"{moment.verdict.replace('_', ' ')} {moment.confidence:.0%}"
    badge_width = math.ceil(_width(badge, TEXT_SIZE))
    _draw_line(draw, (x + room - badge_width, y), badge, TEXT_SIZE, VERDICT_COLOURS[moment.verdict], room)
    span = time_span(moment.start_seconds, moment.end_seconds).replace(DASH, "-")  # Pillow's font lacks the dash
    _draw_line(draw, (x, y), span, TEXT_SIZE, INK, room - badge_width - PADDING)
    scores = f"visual {score_text(moment.visual_score)}  speech {score_text(moment.speech_score)}".replace(DASH, "-")
    if moment.text_score is not None:
        scores += f"  text {score_text(moment.text_score)}"
    scores_width = math.ceil(_width(scores, TEXT_SIZE))
    _draw_line(draw, (x + room - scores_width, y + LINE_HEIGHT), scores, TEXT_SIZE, DIM)
    _draw_line(draw, (x, y + LINE_HEIGHT), title(moment.uri), TEXT_SIZE, DIM, room - scores_width - PADDING)
    # A generous excerpt around the first matched word, which _wrap_text then cuts to the width of the cell.
    words = [word.text for word in moment.matched_words]
    excerpt = snippet(moment.transcript, words, limit=150).plain
    if moment.matched_text:
        excerpt = f"on screen: {written_excerpt(moment, 100)}  {excerpt}"
    pattern = word_pattern(words)
    for index, line in enumerate(_wrap_text(excerpt, room)):
        _draw_transcript_line(draw, (x, y + 6 + LINE_HEIGHT * (2 + index)), line, pattern)


def _draw_picture(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], picture: bytes | None
) -> None:
    left, top = corner
    draw.rectangle((left, top, left + PICTURE_WIDTH - 1, top + PICTURE_HEIGHT - 1), fill=SHADE)
    words = "sound only"
    if picture is not None:
        try:
            with Image.open(io.BytesIO(picture)) as opened:
                fitted = ImageOps.contain(opened.convert("RGB"), (PICTURE_WIDTH, PICTURE_HEIGHT))
        except OSError:  # a damaged thumbnail does not stop the sheet
            words = "picture damaged"
        else:
            room = ((PICTURE_WIDTH - fitted.width) // 2, (PICTURE_HEIGHT - fitted.height) // 2)
            sheet.paste(fitted, (left + room[0], top + room[1]))
            return
    x = left + (PICTURE_WIDTH - _width(words, TEXT_SIZE)) / 2
    _draw_line(draw, (x, top + PICTURE_HEIGHT / 2 - 9), words, TEXT_SIZE, DIM, PICTURE_WIDTH)


def _draw_transcript_line(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], line: str, pattern: re.Pattern[str] | None
) -> None:
    """Draw a line of the transcript, with the matched words in another colour, unless it runs from right to left."""
    x, y = corner
    start = 0
    if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in line):
        pattern = None  # words from right to left change their places when a line is drawn in parts
    for match in pattern.finditer(line) if pattern else ():
        x = _draw_line(draw, (x, y), line[start : match.start()], TEXT_SIZE, INK)
        x = _draw_line(draw, (x, y), match.group(), TEXT_SIZE, ACCENT)
        start = match.end()
    _draw_line(draw, (x, y), line[start:], TEXT_SIZE, INK)


def _draw_line(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    size: int,
    colour: str,
    room: float = math.inf,
    backdrop: str | None = None,
) -> float:
    """Draw a line of text, cut to `room` pixels. Return the x coordinate of its end."""
    text = _cut_text(text, size, room)
    font, (x, y) = _font(text, size), corner
    if backdrop is not None:
        end = x + draw.textlength(text, font=font)
        draw.rounded_rectangle((x - 4, y - 3, end + 4, y + size + 4), 4, fill=backdrop)
    # Anchored at the baseline, so that fonts of different ascent stand on the same line.
    draw.text((x, y + size), text, fill=colour, font=font, anchor="ls")
    return x + draw.textlength(text, font=font)


def _cut_text(text: str, size: int, room: float) -> str:
    if _width(text, size) <= room:
        return text
    while text and _width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrap_text(text: str, room: float) -> list[str]:
    """Break text into at most TRANSCRIPT_LINES lines of `room` pixels, at spaces if possible."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < TRANSCRIPT_LINES:
        if len(lines) == TRANSCRIPT_LINES - 1:
            lines.append(_cut_text(rest, TEXT_SIZE, room))
            break
        end = len(rest)
        while end > 1 and _width(rest[:end], TEXT_SIZE) > room:
            end = space if (space := rest.rfind(" ", 0, end)) > 0 else end - 1
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return lines


def _width(text: str, size: int) -> float:
    return _font(text, size).getlength(text)


def _font(text: str, size: int) -> Font:
    """Choose the first font that lacks the fewest letters of the text."""
    fonts = (font for name in (None, *OTHER_FONTS) if (font := _load_font(name, size)) is not None)
    best, fewest = _load_font(None, size), math.inf
    for font in fonts:
        missing_count = sum(_lacks_letter(font, letter) for letter in set(text))
        if missing_count < fewest:
            best, fewest = font, missing_count
        if not missing_count:
            break
    if best is None:
        raise AssertionError("Pillow always has a font of its own")
    return best


@functools.cache
def _load_font(name: str | None, size: int) -> Font | None:
    if name is None:
        return ImageFont.load_default(size)
    for place in (name, MATPLOTLIB_FONTS / name):
        with contextlib.suppress(OSError):  # not installed
            return ImageFont.truetype(place, size)
    return None


@functools.lru_cache(maxsize=4096)
def _lacks_letter(font: Font, letter: str) -> bool:
    return not letter.isspace() and bytes(font.getmask(letter)) == bytes(font.getmask(NO_LETTER))
