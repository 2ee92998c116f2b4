"""Measures text in pictures on films of our own making: what is read of it, and which questions find it.

    python -m benchmarks.text IMAGES [--data FOLDER]

IMAGES is a folder of tar files of photographs. Ten films of six screens each are drawn into FOLDER, in ten typefaces of
matplotlib: slides, signs and captions with letters of 2 % to 15 % of the height of the picture, over photographs, still
and moving. They are indexed with the settings of the environment. The program prints the share of the words that was
read by height of the letters, the words that were read and are not there, and how many questions were answered with the
right seconds.
"""

import argparse
import io
import json
import random
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from serve.catalog.text_lines import text_lines
from serve.indexing.pipeline import index
from serve.search.library import Library
from serve.settings import load_settings
from serve.values import IndexProgress, Query, Verdict

WIDTH, HEIGHT, FPS = 1280, 720, 4
SCREEN_SECONDS, SCREEN_COUNT = 6, 6  # of a screen, and in a film
MOVE_PX_PER_SECOND = 24  # of a moving screen: some credits and tickers are as fast
MIN_TIOU = 0.3  # an answer with right seconds shares so much of its time with the screen
SEED = 7
FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono", "STIXGeneral",
    "STIXGeneralBol", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip
SIZES = (
    0.02,
    0.03,
    0.045,
    0.07,
    0.1,
    0.15,
)  # heights of the letters, in shares of the picture's: one a screen of a film
SUBJECTS = (
    "harbour", "orchard", "museum", "bakery", "railway", "glacier", "library", "factory", "theatre", "garden", "market",
    "bridge", "castle", "desert", "island", "kitchen", "laboratory", "meadow", "observatory", "playground",
)  # fmt: skip
QUALITIES = ("annual", "hidden", "northern", "quiet", "second", "modern", "ancient", "public", "digital", "winter")
NEWS = ("opens", "closes", "report", "tickets", "results", "summary", "entrance", "figures", "schedule", "history")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
FORMS = {
    "slide": ('the slide that says "{}"', "a slide about the {}"),
    "sign": ('a sign reading "{}"', "the sign that says {}"),
    "caption": ('the caption "{}"', "when does the caption say {}?"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What one part of a film shows."""

    film: str
    start_seconds: float
    kind: str  # a key of FORMS
    face: str
    size: float  # height of its letters by that of the picture
    is_moving: bool
    lines: tuple[str, ...]

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + SCREEN_SECONDS

    @property
    def words(self) -> list[str]:
        return [word.casefold() for line in self.lines for word in line.split()]


def make_screens() -> list[Screen]:
    """Return sixty screens, always the same ones; no two share their first line."""
    rng, screens = random.Random(SEED), []
    titles = [f"{quality} {subject} {rng.choice(NEWS)}" for quality in QUALITIES for subject in SUBJECTS]
    rng.shuffle(titles)
    for number, face in enumerate(FACES):
        sizes = rng.sample(SIZES, len(SIZES))
        for place in range(SCREEN_COUNT):
            kind = ("slide", "sign", "caption")[(number + place) % 3]
            title = titles.pop()
            more = [f"{rng.choice(DAYS)} {rng.randrange(1, 13)} to {rng.randrange(13, 24)}", titles.pop()]
            size = sizes[place]
            count = {"slide": 3, "sign": 1, "caption": 2}[kind] if size < 0.1 else 1
            lines = [title, *more][:count]
            if size >= 0.1:  # a whole title would not fit
                lines = title.split()
            screens.append(
                Screen(
                    film=f"film-{number}.mp4", start_seconds=float(place * SCREEN_SECONDS), kind=kind, face=face,
                    size=size, is_moving=(number + place) % 2 == 1,
                    lines=tuple(line.upper() if kind == "sign" else line for line in lines),
                )
            )  # fmt: skip
    return screens


def read_photos(folder: Path, count: int) -> list[Image.Image]:
    """Return the first photographs of a folder of tar files, as large as the films."""
    photos = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith((".webp", ".jpg", ".png")):
                    data = tar.extractfile(member)
                    assert data is not None
                    photo = Image.open(io.BytesIO(data.read())).convert("RGB")
                    photos.append(photo.resize((WIDTH + 200, HEIGHT + 200), Image.Resampling.BICUBIC))
                    if len(photos) == count:
                        return photos
    raise SystemExit(f"{folder} has {len(photos)} photographs, and {count} are needed")


def draw(screen: Screen, photo: Image.Image, seconds: float) -> Image.Image:
    """Draw a screen at a time from its start."""
    shift = int(seconds * MOVE_PX_PER_SECOND) if screen.is_moving else 0
    picture = photo.crop((shift, shift // 2, shift + WIDTH, shift // 2 + HEIGHT))
    pen = ImageDraw.Draw(picture)
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{screen.face}.ttf"
    # Capital letters are some 0.7 of a typeface's size.
    font = ImageFont.truetype(path, round(screen.size * HEIGHT / 0.7))
    step = 1.4 * font.size
    width = max(measure(pen, line, font) for line in screen.lines)
    left = {"slide": 80, "sign": (WIDTH - width) // 2, "caption": (WIDTH - width) // 2}[screen.kind]
    top = {
        "slide": 60,
        "sign": HEIGHT // 3 if len(screen.lines) == 1 else 60,
        "caption": HEIGHT - 40 - step * len(screen.lines),
    }[screen.kind]
    left, top = max(20, left - shift // 2), top - shift // 4
    if screen.kind != "caption":  # captions stand on the photograph itself
        plate = (left - 20, top - 15, left + width + 20, top + step * len(screen.lines) + 15)
        pen.rectangle(plate, fill="white" if screen.kind == "slide" else "darkgreen")
    colour = "black" if screen.kind == "slide" else "white"
    for n, line in enumerate(screen.lines):
        at = float(left)
        for word in line.split():  # some of the typefaces have no space
            outline = 2 if screen.kind == "caption" else 0
            pen.text((at, top + n * step), word, colour, font, stroke_width=outline, stroke_fill="black")
            at += pen.textlength(word, font) + 0.33 * font.size
    return picture


def measure(pen: ImageDraw.ImageDraw, line: str, font: ImageFont.FreeTypeFont) -> float:
    words = line.split()
    return sum(pen.textlength(word, font) for word in words) + 0.33 * font.size * (len(words) - 1)


def write_films(screens: Sequence[Screen], photos: Sequence[Image.Image], folder: Path) -> None:
    """Write the films that are not there yet."""
    films: dict[str, list[tuple[Screen, Image.Image]]] = defaultdict(list)
    for screen, photo in zip(screens, photos, strict=True):
        films[screen.film].append((screen, photo))
    for name, parts in films.items():
        if (folder / name).exists():
            continue
        with av.open(str(folder / f"part-{name}"), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"crf": "26", "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for screen, photo in parts:
                for n in range(SCREEN_SECONDS * FPS):
                    if n == 0 or screen.is_moving:
                        frame = av.VideoFrame.from_ndarray(np.asarray(draw(screen, photo, n / FPS)), "rgb24")
                    frame.pts = None
                    container.mux(stream.encode(frame))
            container.mux(stream.encode())
        (folder / f"part-{name}").rename(folder / name)


def questions_of(screen: Screen, number: int) -> Iterator[str]:
    """Yield a question that quotes the first words of a screen, or one that does not: each screen has one of them."""
    quote = " ".join(screen.lines[0].split()[:2] if len(screen.lines[0].split()) > 1 else screen.lines[:2])
    yield FORMS[screen.kind][number % 2].format(quote.casefold())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--data", type=Path, default=Path("text-films"))
    options = parser.parse_args()
    films, data = options.data / "films", options.data / "library"
    films.mkdir(parents=True, exist_ok=True)
    screens = make_screens()
    write_films(screens, read_photos(options.images, len(screens)), films)
    settings = load_settings(data, None)
    began = time.process_time()
    for outcome in index([str(films)], data, settings, progress=IndexProgress()):
        print(outcome.status, Path(outcome.uri).name)
    print(f"index: {time.process_time() - began:.0f} s of this process's CPU time")
    with Library.open(data, settings) as library:
        print_reading(library, screens)
        print_answers(library, screens)


def print_reading(library: Library, screens: Sequence[Screen]) -> None:
    """Print which words were read, by height of the letters, kind and typeface, and which are not there."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    wrong = []
    lines = {Path(video.uri).name: text_lines(library.catalog, video.row) for video in library.catalog.videos()}
    for screen in screens:
        shown = [
            line
            for line in lines[screen.film]
            if line.start_seconds < screen.end_seconds and line.end_seconds > screen.start_seconds
        ]
        read = {word.casefold() for line in shown for word in line.text.split()}
        groups = (
            "all",
            f"{100 * screen.size:.3g} %",
            screen.kind,
            "moving" if screen.is_moving else "still",
            screen.face,
        )
        for group in groups:
            found[group][0] += sum(word in read for word in screen.words)
            found[group][1] += len(screen.words)
        own = [line for line in shown if screen.start_seconds <= line.start_seconds < screen.end_seconds]
        wrong += [line.text for line in own if not any(word.casefold() in screen.words for word in line.text.split())]
    for group, (count, total) in found.items():
        print(f"words read, {group}: {count} of {total}, {100 * count / total:.0f} %")
    total = sum(map(len, lines.values()))
    print(f"lines: {total}, of which {len(wrong)} have no word that is there: {json.dumps(wrong)}")


def print_answers(library: Library, screens: Sequence[Screen]) -> None:
    """Print how many questions have the right seconds in the first answer, of the whole library."""
    right, matched, matched_right, first_of_text = defaultdict(list), 0, 0, []
    for number, screen in enumerate(screens):
        for text in questions_of(screen, number):
            for channel in ("all", "text"):
                moments = library.moments(Query(text=text, channel=channel, limit=1)).moments  # type: ignore[arg-type]
                is_right = False
                if moments and Path(moments[0].uri).name == screen.film:
                    best = moments[0]
                    shared = min(best.end_seconds, screen.end_seconds) - max(best.start_seconds, screen.start_seconds)
                    whole = max(best.end_seconds, screen.end_seconds) - min(best.start_seconds, screen.start_seconds)
                    is_right = shared / whole >= MIN_TIOU
                if channel == "text":
                    first_of_text.append(is_right)
                    continue
                right[f"{100 * screen.size:.3g} %"].append(is_right)
                right["all"].append(is_right)
                if moments and moments[0].verdict is Verdict.MATCH:
                    matched, matched_right = matched + 1, matched_right + is_right
    for group, answers in right.items():
        print(f"questions with right seconds first, {group}: {sum(answers)} of {len(answers)}")
    print(f"the same, --channel text: {sum(first_of_text)} of {len(first_of_text)}")
    print(f"MATCHes right: {matched_right} of {matched}")


if __name__ == "__main__":
    main()
