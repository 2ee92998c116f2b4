"""Makes the demo's videos and questions.json from storyboard.py.

    pip install scikit-image scikit-learn matplotlib        # their wheels hold the photographs (README.md: licences)
    apt-get install flite                                   # the voice of the narrator
    python -m serve.demo.making.make_videos

Only a developer who changes the storyboard needs this, since the videos are committed. The same storyboard and the same
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
WIDTH, HEIGHT = 640, 360  # pixels: sharp enough for a contact sheet, and more than the encoders use
RATE_FPS = 12  # enough for slow camera movements
CRF = 31  # quality of x264: all videos together stay under 3 MB, without visible blocks on a contact sheet
KEYFRAME_SECONDS = 10  # longest distance of keyframes within a scene; each cut has a keyframe too
SAMPLE_RATE_HZ = 16_000  # sample rate of flite
AUDIO_BITS_PER_SECOND = 32_000  # AAC, mono: clear speech at this sample rate
VOICE = "slt"  # the voice of flite and espeak-ng in which Whisper tiny.en mishears the fewest words
PEAK = 0.8  # loudest sample of a line, as a share of full scale: AAC overshoots a little
SILENCE = 0.01  # samples below this share of full scale are silence
LEAD_SECONDS = 0.5  # from a cut to the first word
PAUSE_SECONDS = 0.5  # between two lines, and the least time from the last word to the next cut
MIN_SCENE_SECONDS = 5.0  # shortest scene
GRID_SECONDS = 0.5  # cuts fall on multiples of this
PAPER, INK = (28, 36, 48), (240, 236, 224)  # colours of the slides, RGB


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A photograph inside an installed package."""

    name: str
    package: str
    path: str
    # RGB of the bars that make the photograph 16:9 before a view is cut out; None: the photograph fills the screen.
    matte: tuple[int, int, int] | None = None


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
class SpokenLine:
    """A spoken line. Times are seconds of the video."""

    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedScene:
    """A scene, from cut to cut. Times are seconds of the video."""

    start_seconds: float
    end_seconds: float
    shows: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The times of all scenes and lines of a video, and its sound."""

    scenes: tuple[TimedScene, ...]
    lines: tuple[SpokenLine, ...]
    sound: NDArray[np.float32]  # (N,), -1..1, at SAMPLE_RATE_HZ, as long as the pictures

    @property
    def duration_seconds(self) -> float:
        return self.scenes[-1].end_seconds


def speak(text: str) -> NDArray[np.float32]:
    """Synthesise a line: float32 (N,), -1..1, at SAMPLE_RATE_HZ, without silence at either end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "line.wav"
        subprocess.run(["flite", "-voice", VOICE, "-t", text, "-o", str(path)], check=True)
        with wave.open(str(path)) as file:
            sound_format = (file.getframerate(), file.getnchannels(), file.getsampwidth())
            if sound_format != (SAMPLE_RATE_HZ, 1, 2):
                raise ValueError(f"flite must speak {SAMPLE_RATE_HZ} Hz, 1 channel, 2 bytes; got {sound_format}")
            sound = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 2**15
    loud = np.flatnonzero(np.abs(sound) > SILENCE)
    sound = sound[loud[0] : loud[-1] + 1]
    return np.asarray(sound * (PEAK / np.abs(sound).max()), dtype=np.float32)


def plan(board: Storyboard) -> Plan:
    """Place the scenes in time: each is as long as its lines, rounded up to GRID_SECONDS."""
    scenes: list[TimedScene] = []
    lines: list[SpokenLine] = []
    tracks: list[NDArray[np.float32]] = []
    start = 0.0
    for scene in board.scenes:
        line_start = start + LEAD_SECONDS
        sounds = [speak(line) for line in scene.lines]
        starts = []
        for text, sound in zip(scene.lines, sounds, strict=True):
            line_end = line_start + len(sound) / SAMPLE_RATE_HZ
            lines.append(SpokenLine(start_seconds=round(line_start, 2), end_seconds=round(line_end, 2), text=text))
            starts.append(line_start)
            line_start = line_end + PAUSE_SECONDS
        seconds = max(MIN_SCENE_SECONDS, math.ceil((line_start - start) / GRID_SECONDS) * GRID_SECONDS)
        track = np.zeros(round(seconds * SAMPLE_RATE_HZ), dtype=np.float32)
        for line_start, sound in zip(starts, sounds, strict=True):
            first = round((line_start - start) * SAMPLE_RATE_HZ)
            track[first : first + len(sound)] = sound
        tracks.append(track)
        scenes.append(TimedScene(start_seconds=start, end_seconds=start + seconds, shows=scene.shows))
        start += seconds
    return Plan(scenes=tuple(scenes), lines=tuple(lines), sound=np.concatenate(tracks))


def read_photograph(name: str) -> Image.Image:
    """Read a photograph from the package that holds it, without importing the package."""
    (source,) = (picture for picture in PICTURES if picture.name == name)
    spec = importlib.util.find_spec(source.package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{source.package} is not installed (it holds {source.path})")
    picture = Image.open(Path(spec.origin).parent / source.path).convert("RGB")
    if source.matte is None:
        return picture
    wide = Image.new("RGB", (round(picture.height * WIDTH / HEIGHT), picture.height), source.matte)
    wide.paste(picture, ((wide.width - picture.width) // 2, 0))
    return wide


def draw_slide(lines: Sequence[str]) -> Image.Image:
    """Draw a slide of centred text, with the first line as the heading."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, text in enumerate(lines):
        font = ImageFont.load_default(size=HEIGHT / (6 if number == 0 else 12))
        y = HEIGHT * (0.36 if number == 0 else 0.48 + 0.12 * number)
        draw.text((WIDTH / 2, y), text, fill=INK, font=font, anchor="mm")
    return picture


def cut_view(picture: Image.Image, begin: View, end: View, progress: float) -> Image.Image:
    """Cut a 16:9 view out of a photograph. The camera is at `progress` (0..1) of its way from `begin` to `end`."""
    x, y, share = (a + (b - a) * progress for a, b in ((begin.x, end.x), (begin.y, end.y), (begin.width, end.width)))
    width = min(share * picture.width, picture.height * WIDTH / HEIGHT)
    height = width * HEIGHT / WIDTH
    left = min(max(x * picture.width - width / 2, 0.0), picture.width - width)  # the view stays inside the photograph
    top = min(max(y * picture.height - height / 2, 0.0), picture.height - height)
    box = (left, top, left + width, top + height)  # fractions of pixels, so that the movement is smooth
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=box)


def draw_frames(scene: Scene, seconds: float) -> Iterator[Image.Image]:
    """Yield the pictures of a scene."""
    count = round(seconds * RATE_FPS)
    still = draw_slide(scene.slide) if not scene.picture else read_photograph(scene.picture)
    for number in range(count):
        yield still if not scene.picture else cut_view(still, scene.begin, scene.end, number / (count - 1))


def render_video(board: Storyboard, timing: Plan, path: Path) -> None:
    """Encode a video: H.264 and AAC in MP4, with the index at the start of the file."""
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as file:
        video = file.add_stream("libx264", rate=RATE_FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"crf": str(CRF), "preset": "veryslow", "g": str(KEYFRAME_SECONDS * RATE_FPS)}
        audio = file.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", bit_rate=AUDIO_BITS_PER_SECOND)
        for scene, shown in zip(board.scenes, timing.scenes, strict=True):
            for number, picture in enumerate(draw_frames(scene, shown.end_seconds - shown.start_seconds)):
                frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
                if number == 0:
                    frame.pict_type = PictureType.I  # a keyframe at each cut, for exact seeking
                file.mux(video.encode(frame))
        file.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(timing.sound[np.newaxis], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE_HZ, 0, Fraction(1, SAMPLE_RATE_HZ)
        file.mux(audio.encode(sound))
        file.mux(audio.encode(None))


def make_questions(board: Storyboard, timing: Plan) -> Iterator[dict[str, object]]:
    """Yield the questions about a video with the spans that answer them, as rows of questions.json."""
    for question in board.questions:
        spans: list[SpokenLine] | list[TimedScene]
        if isinstance(question, SpokenQuestion):
            spans = [line for line in timing.lines if question.words in line.text]
            if len(spans) != 1:
                raise ValueError(f"{board.file}: {len(spans)} lines say {question.words!r}, must be 1")
        else:
            spans = [scene for scene in timing.scenes if scene.shows == question.shows]
            if not spans or any(a.end_seconds != b.start_seconds for a, b in itertools.pairwise(spans)):
                raise ValueError(f"{board.file}: {question.shows!r} must be shown, without interruption")
        yield {
            "file": board.file,
            "query": question.query,
            "start_seconds": spans[0].start_seconds,
            "end_seconds": spans[-1].end_seconds,
            "channel": "speech" if isinstance(question, SpokenQuestion) else "visual",
        }


def main() -> None:
    """Make all videos and questions.json."""
    if shutil.which("flite") is None:
        sys.exit("make_videos: flite is not installed; on Debian: apt-get install flite")
    missing = sorted({p.package for p in PICTURES if importlib.util.find_spec(p.package) is None})
    if missing:
        sys.exit(f"make_videos: not installed: {', '.join(missing)}; pip install scikit-image scikit-learn matplotlib")
    videos: list[dict[str, object]] = []
    moments: list[dict[str, object]] = []
    for board in STORYBOARDS:
        timing = plan(board)
        render_video(board, timing, DEMO / "videos" / board.file)
        videos.append(
            {
                "file": board.file,
                "caption": board.caption,
                "duration_seconds": timing.duration_seconds,
                "scenes": [asdict(scene) for scene in timing.scenes],
                "lines": [asdict(line) for line in timing.lines],
            }
        )
        moments.extend(make_questions(board, timing))
    absent = [{"query": query, "channel": "speech"} for query in ABSENT_SPOKEN]
    absent += [{"query": query, "channel": "visual"} for query in ABSENT_SEEN]
    truth = {"videos": videos, "moments": moments, "absent": absent}
    (DEMO / "questions.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
