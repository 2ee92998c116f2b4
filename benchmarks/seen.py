"""Draws what the visual encoder finds: twenty questions, and the frames that answer each best.

    python benchmarks/seen.py DATA --out seen.png [QUESTION ...]

DATA is a data directory with indexed videos. Each question has a row: the best frame of each of the five best videos,
framed in the colour of its verdict. It is judged by eye.
"""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from serve.cli.sheet import DIM, INK, PAPER, VERDICT_COLOURS
from serve.search.library import Library
from serve.settings import load_settings
from serve.values import Query

QUESTIONS = (
    "a dog running", "a plate of food on a table", "someone cutting vegetables in a kitchen", "a red car on a highway",
    "a presentation slide with a diagram", "a person riding a horse", "children in a classroom", "a snowy mountain",
    "a bowl of soup", "a man talking to the camera", "a cartoon rabbit", "waves on a beach", "a baseball player",
    "a woman doing yoga", "traffic at a crossing seen from above", "computer code on a screen", "a cat",
    "people dancing at a party", "a musician with a guitar", "a city street at night",
)  # fmt: skip
COLUMN_COUNT = 5
PICTURE = (224, 126)
GAP, TEXT_HEIGHT = 10, 34


def draw(library: Library, questions: Sequence[str]) -> Image.Image:
    """Draw a row of pictures for each question."""
    row_height = TEXT_HEIGHT + PICTURE[1] + 26
    sheet = Image.new("RGB", (GAP + COLUMN_COUNT * (PICTURE[0] + GAP), GAP + len(questions) * row_height), PAPER)
    pen = ImageDraw.Draw(sheet)
    by_id = {video.video_id: video for video in library.videos()}
    for row, question in enumerate(questions):
        top = GAP + row * row_height
        pen.text((GAP, top + 6), question, INK, ImageFont.load_default(18))
        found = library.moments(Query(text=question, channel="visual", limit=50)).moments
        best = list({moment.video_id: moment for moment in reversed(found)}.values())[
            ::-1
        ]  # the best moment of each video
        best.sort(key=found.index)
        for column, moment in enumerate(best[:COLUMN_COUNT]):
            corner = (GAP + column * (PICTURE[0] + GAP), top + TEXT_HEIGHT)
            at = moment.best_frame_seconds
            thumbnail = library.thumbnail(by_id[moment.video_id], at) if at is not None else None
            if thumbnail is not None:
                picture = ImageOps.contain(Image.open(io.BytesIO(thumbnail[1])), PICTURE)
                sheet.paste(picture, (corner[0] + (PICTURE[0] - picture.width) // 2, corner[1]))
            pen.rectangle(
                (*corner, corner[0] + PICTURE[0], corner[1] + PICTURE[1]), None, VERDICT_COLOURS[moment.verdict], 3
            )
            line = f"{moment.verdict} {moment.confidence:.2f}  {Path(moment.uri).stem[:14]}"
            pen.text((corner[0], corner[1] + PICTURE[1] + 3), line, DIM, ImageFont.load_default(12))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("questions", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("seen.png"))
    args = parser.parse_args()
    with Library.open(args.data, load_settings(args.data, None)) as library:
        draw(library, args.questions or QUESTIONS).save(args.out)
    print(f"{args.out}: look at it")


if __name__ == "__main__":
    main()
