"""Make the demo library anew: videos/*.mp4 and questions.json, from storyboard.py.

    pip install scikit-image scikit-learn matplotlib        # the photographs lie in their wheels (README.md: licences)
    apt-get install flite                                   # the narrator
    python -m serve.demo.making.make_videos

Only a developer who changes the storyboard needs this; the videos are committed. The same storyboard and the same
versions of FFmpeg's libraries and flite give the same bytes.
"""

import importlib.util
import itertools
import json
import math
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from serve.demo.making.storyboard import (
    ABSENT_SEEN,
    ABSENT_SPOKEN,
    STORYBOARDS,
    Scene,
    SpokenQuestion,
    Storyboard,
    View,
)

DEMO = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 640, 360  # pixels: sharp enough for a contact sheet; the encoders see far less
RATE_FPS = 12  # slow camera movements need no more
CRF = 31  # x264 quality: the whole library stays under 3 MB and no blocks are seen on a sheet
KEYFRAME_SECONDS = 10  # at most, within a scene; each cut has one too
SAMPLE_RATE_HZ = 16_000  # what flite speaks
AUDIO_BITS_PER_SECOND = 32_000  # AAC, mono: clear speech at this sample rate
VOICE = "slt"  # of flite's and espeak-ng's voices the one that Whisper tiny.en mishears least
PEAK = 0.8  # of full scale, for each line: AAC overshoots a little
SILENCE = 0.01  # of full scale: quieter than this is no speech
LEAD_SECONDS = 0.5  # from a cut to the first word
PAUSE_SECONDS = 0.5  # between two lines, and from the last word to the next cut, at least
SHORTEST_SECONDS = 5.0  # of a scene
GRID_SECONDS = 0.5  # cuts fall on half seconds
PAPER, INK = (28, 36, 48), (240, 236, 224)  # RGB of the slides


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A photograph inside an installed package."""

    name: str
    package: str
    path: str
    matte: tuple[int, int, int] | None = (
        None  # RGB of bars that make it 16:9 before it is cut; None: it fills the screen
    )


PICTURES = (
    Photograph(name="astronaut", package="skimage", path="data/astronaut.png", matte=PAPER),
    Photograph(name="rocket", package="skimage", path="data/rocket.jpg"),
    Photograph(name="galaxies", package="skimage", path="data/hubble_deep_field.jpg"),
    Photograph(name="coffee", package="skimage", path="data/coffee.png"),
    Photograph(name="bricks", package="skimage", path="data/brick.png"),
    Photograph(name="grass", package="skimage", path="data/grass.png"),
    Photograph(name="pebbles", package="skimage", path="data/gravel.png"),
    Photograph(name="cat", package="skimage", path="data/chelsea.png"),
    Photograph(name="horse", package="skimage", path="data/horse.png", matte=(255, 255, 255)),
    Photograph(name="formulas", package="skimage", path="data/text.png"),
    Photograph(name="photographer", package="skimage", path="data/camera.png", matte=PAPER),
    Photograph(name="retina", package="skimage", path="data/retina.jpg", matte=(0, 0, 0)),
    Photograph(name="pagoda", package="sklearn", path="datasets/images/china.jpg"),
    Photograph(name="dahlia", package="sklearn", path="datasets/images/flower.jpg"),
    Photograph(name="hopper", package="matplotlib", path="mpl-data/sample_data/grace_hopper.jpg", matte=PAPER),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One spoken line. Times are seconds of the video."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One scene, from cut to cut. Times are seconds of the video."""

    start_seconds: float
    end_seconds: float
    shows: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """When everything in a video happens."""

    scenes: tuple[Shown, ...]
    lines: tuple[Said, ...]
    sound: NDArray[np.float32]  # (N,), -1..1, SAMPLE_RATE_HZ, as long as the pictures

    @property
    def duration_seconds(self) -> float:
        return self.scenes[-1].end_seconds


def speak(text: str) -> NDArray[np.float32]:
    """Synthesise one line: float32 (N,), -1..1, SAMPLE_RATE_HZ, without silence at either end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "line.wav"
        subprocess.run(["flite", "-voice", VOICE, "-t", text, "-o", str(path)], check=True)
        with wave.open(str(path)) as file:
            form = (file.getframerate(), file.getnchannels(), file.getsampwidth())
            if form != (SAMPLE_RATE_HZ, 1, 2):
                raise ValueError(f"flite must speak {SAMPLE_RATE_HZ} Hz, 1 channel, 2 bytes; got {form}")
            sound = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 2**15
    loud = np.flatnonzero(np.abs(sound) > SILENCE)
    sound = sound[loud[0] : loud[-1] + 1]
    return np.asarray(sound * (PEAK / np.abs(sound).max()), dtype=np.float32)


def plan(board: Storyboard) -> Plan:
    """Lay the scenes out in time: each lasts as long as its lines take, rounded up to GRID_SECONDS."""
    scenes: list[Shown] = []
    lines: list[Said] = []
    pieces: list[NDArray[np.float32]] = []
    start = 0.0
    for scene in board.scenes:
        at = start + LEAD_SECONDS
        spoken = [speak(line) for line in scene.lines]
        starts = []
        for text, sound in zip(scene.lines, spoken, strict=True):
            end = at + len(sound) / SAMPLE_RATE_HZ
            lines.append(Said(start_seconds=round(at, 2), end_seconds=round(end, 2), text=text))
            starts.append(at)
            at = end + PAUSE_SECONDS
        seconds = max(SHORTEST_SECONDS, math.ceil((at - start) / GRID_SECONDS) * GRID_SECONDS)
        track = np.zeros(round(seconds * SAMPLE_RATE_HZ), dtype=np.float32)
        for line_start, sound in zip(starts, spoken, strict=True):
            first = round((line_start - start) * SAMPLE_RATE_HZ)
            track[first : first + len(sound)] = sound
        pieces.append(track)
        scenes.append(Shown(start_seconds=start, end_seconds=start + seconds, shows=scene.shows))
        start += seconds
    return Plan(scenes=tuple(scenes), lines=tuple(lines), sound=np.concatenate(pieces))


def photograph(name: str) -> Image.Image:
    """Read a photograph out of the package that carries it, without importing the package."""
    (found,) = (picture for picture in PICTURES if picture.name == name)
    spec = importlib.util.find_spec(found.package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{found.package} is not installed (it carries {found.path})")
    picture = Image.open(Path(spec.origin).parent / found.path).convert("RGB")
    if found.matte is None:
        return picture
    wide = Image.new("RGB", (round(picture.height * WIDTH / HEIGHT), picture.height), found.matte)
    wide.paste(picture, ((wide.width - picture.width) // 2, 0))
    return wide


def slide(lines: Sequence[str]) -> Image.Image:
    """Draw a text slide: the first line as the heading, centred."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, text in enumerate(lines):
        font = ImageFont.load_default(size=HEIGHT / (6 if number == 0 else 12))
        y = HEIGHT * (0.36 if number == 0 else 0.48 + 0.12 * number)
        draw.text((WIDTH / 2, y), text, fill=INK, font=font, anchor="mm")
    return picture


def cut(picture: Image.Image, begin: View, end: View, progress: float) -> Image.Image:
    """Cut the 16:9 view out of a photograph that the camera has after `progress` (0..1) of its way."""
    way = [a + (b - a) * progress for a, b in ((begin.x, end.x), (begin.y, end.y), (begin.width, end.width))]
    width = min(way[2] * picture.width, picture.height * WIDTH / HEIGHT)
    height = width * HEIGHT / WIDTH
    left = min(max(way[0] * picture.width - width / 2, 0.0), picture.width - width)  # keep inside
    top = min(max(way[1] * picture.height - height / 2, 0.0), picture.height - height)
    box = (left, top, left + width, top + height)  # fractions of pixels: the movement does not jerk
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=box)


def frames(scene: Scene, seconds: float) -> Iterator[Image.Image]:
    """Yield the pictures of one scene."""
    count = round(seconds * RATE_FPS)
    still = slide(scene.slide) if not scene.picture else photograph(scene.picture)
    for number in range(count):
        yield still if not scene.picture else cut(still, scene.begin, scene.end, number / (count - 1))


def write(board: Storyboard, timing: Plan, path: Path) -> None:
    """Encode one video: H.264 and AAC in MP4, index first."""
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as file:
        video = file.add_stream("libx264", rate=RATE_FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"crf": str(CRF), "preset": "veryslow", "g": str(KEYFRAME_SECONDS * RATE_FPS)}
        audio = file.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", bit_rate=AUDIO_BITS_PER_SECOND)
        for scene, shown in zip(board.scenes, timing.scenes, strict=True):
            for number, picture in enumerate(frames(scene, shown.end_seconds - shown.start_seconds)):
                frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
                if number == 0:
                    frame.pict_type = PictureType.I  # a keyframe at each cut, so that seeking lands on it
                file.mux(video.encode(frame))
        file.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(timing.sound[np.newaxis], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE_HZ, 0, Fraction(1, SAMPLE_RATE_HZ)
        file.mux(audio.encode(sound))
        file.mux(audio.encode(None))


def answers(board: Storyboard, timing: Plan) -> Iterator[dict[str, object]]:
    """Yield the video's questions with the spans that answer them, as questions.json has them."""
    for question in board.questions:
        spans: list[Said] | list[Shown]
        if isinstance(question, SpokenQuestion):
            spans = [line for line in timing.lines if question.words in line.text]
            if len(spans) != 1:
                raise ValueError(f"{board.file}: {len(spans)} lines say {question.words!r}, it must be one")
        else:
            spans = [scene for scene in timing.scenes if scene.shows == question.shows]
            if not spans or any(a.end_seconds != b.start_seconds for a, b in itertools.pairwise(spans)):
                raise ValueError(f"{board.file}: {question.shows!r} must be shown, without a break")
        yield {
            "file": board.file,
            "query": question.query,
            "start_seconds": spans[0].start_seconds,
            "end_seconds": spans[-1].end_seconds,
            "channel": "speech" if isinstance(question, SpokenQuestion) else "visual",
        }


def main() -> None:
    """Make every video and questions.json."""
    if shutil.which("flite") is None:
        sys.exit("make_videos: flite is not installed; on Debian: apt-get install flite")
    missing = sorted({p.package for p in PICTURES if importlib.util.find_spec(p.package) is None})
    if missing:
        sys.exit(f"make_videos: not installed: {', '.join(missing)}; pip install scikit-image scikit-learn matplotlib")
    videos: list[dict[str, object]] = []
    moments: list[dict[str, object]] = []
    for board in STORYBOARDS:
        timing = plan(board)
        write(board, timing, DEMO / "videos" / board.file)
        videos.append(
            {
                "file": board.file,
                "caption": board.caption,
                "duration_seconds": timing.duration_seconds,
                "scenes": [asdict(scene) for scene in timing.scenes],
                "lines": [asdict(line) for line in timing.lines],
            }
        )
        moments.extend(answers(board, timing))
    absent = [{"query": query, "channel": "speech"} for query in ABSENT_SPOKEN]
    absent += [{"query": query, "channel": "visual"} for query in ABSENT_SEEN]
    truth = {"videos": videos, "moments": moments, "absent": absent}
    (DEMO / "questions.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
