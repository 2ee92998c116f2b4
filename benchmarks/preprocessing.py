"""Measures how frames reach the visual encoder: against open_clip's preprocessing, and which resize retrieves best.

    python benchmarks/preprocessing.py VIDEOS [--out FILE.md]

VIDEOS is a folder with queries.json and files/. There are two tables:
1. The same frames are prepared twice: by ingest.media.decode (libswscale), and by open_clip's image_transform (Pillow)
   from the whole picture that PyAV returns. Both go into mini's tower, whose trained weights react to a difference. The
   table shows the cosine of the results.
2. Whole-video recall of mini by crop, squash and pad. The score is the mean over frames of the similarity to the
   caption, less the mean similarity to encoders.caption_bank.BANK. Mini uses the policy with the highest mean 1/rank on
   the 16:9 videos of the half `train`; `report` is only measured.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import open_clip
from av.container import InputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from sampling import machine

from encoders.caption_bank import BANK
from encoders.clip import load_visual
from encoders.config import VisualConfig
from encoders.mini import MiniEncoder
from ingest.config import DecodeConfig, ResizePolicy
from ingest.media.decode import decode
from ingest.values import Frame

POLICIES: tuple[ResizePolicy, ...] = ("crop", "squash", "pad")
COMPARED_COUNT = 5  # frames of a file in table 1, evenly spread over its first COMPARED_SECONDS
WIDE_TOLERANCE = 0.03  # deviation from 16:9: 854x480, 1920x1088 and 426x240 count as 16:9
COMPARED_SECONDS = 20  # compared part of a file: bare decoding of whole pictures is slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """An ordinary video of queries.json."""

    path: Path
    captions: tuple[str, ...]
    half: str
    is_wide: bool  # whether it is displayed at about 16:9


def read_videos(folder: Path) -> list[Video]:
    entries = json.loads((folder / "queries.json").read_text())["videos"]
    return [
        Video(
            path=folder / "files" / entry["file"],
            captions=(entry["caption"], entry["alt"]),
            half=entry["half"],
            is_wide=is_wide(folder / "files" / entry["file"]),
        )
        for entry in entries
        if entry["role"] == "core"
    ]


def is_wide(path: Path) -> bool:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        aspect = video.width / video.height * float(video.sample_aspect_ratio or 1)
    return abs(aspect / (16 / 9) - 1) < WIDE_TOLERANCE


def sampled(path: Path, width: int, height: int, resize: ResizePolicy) -> list[Frame]:
    """Decode as kinodex does: one frame a second at the input size."""
    config = DecodeConfig(input_width=width, input_height=height, resize=resize)
    with path.open("rb") as file:
        return [item for item in decode(file, uri=path.name, config=config) if isinstance(item, Frame)]


def whole_pictures(path: Path, times: Sequence[float]) -> Iterator[tuple[float, Image.Image]]:
    """Decode with bare PyAV. Return the upright pictures at `times` (seconds from the first picture)."""
    wanted = {round(time, 3) for time in times}
    with av.open(str(path)) as container:
        first: float | None = None
        for frame in decodable(container):
            first = frame.time if first is None else first
            time = round(frame.time - first, 3)
            if time in wanted:
                wanted.discard(time)
                yield time, upright(frame)
            if not wanted:
                return


def decodable(container: InputContainer) -> Iterator[VideoFrame]:
    """Skip packets that do not decode, as ingest does."""
    for packet in container.demux(video=0):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


def upright(frame: VideoFrame) -> Image.Image:
    return frame.to_image().rotate(frame.rotation, expand=True)


def cosine_table(videos: Sequence[Video], encoder: MiniEncoder) -> list[str]:
    """Table 1: cosine between our frames and open_clip's preprocessing of the same pictures, policy crop.

    Each frame has three references: the picture that PyAV returns; that picture stretched to its display size, which
    bare PyAV does not do for pixels that are not square; and the RGB of our decoder at display size. With the third,
    scaling is the only difference, so the distance to the second is due to colour conversion.
    """
    lines = [
        "| video | size | pixel aspect | frames | lowest cosine: as PyAV gives it | as displayed | same RGB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    everything: list[NDArray[np.float32]] = []
    for video in videos:
        say(f"comparing {video.path.name}")
        cosines, shape, aspect = compare(video.path, encoder)
        everything.append(cosines)
        low = " | ".join(f"{column:.4f}" for column in cosines.min(axis=1))
        lines.append(f"| {video.path.name} | {shape} | {float(aspect):.3f} | {cosines.shape[1]} | {low} |")
    joined = np.concatenate(everything, axis=1)  # (3, F)
    low = " | ".join(f"{column:.4f}" for column in joined.min(axis=1))
    share = " | ".join(f"{column:.1%}" for column in (joined >= 0.99).mean(axis=1))
    lines.append(f"| all, lowest | | | {joined.shape[1]} | {low} |")
    return [*lines, f"| all, share of frames at 0.99 or above | | | | {share} |"]


def compare(path: Path, encoder: MiniEncoder) -> tuple[NDArray[np.float32], str, Fraction]:
    """Return the cosines (3 references, F frames), the stored size and the pixel aspect of a video."""
    size = encoder.input_width
    transform = image_transform_v2(PreprocessCfg(size=size, mean=(0.0,) * 3, std=(1.0,) * 3), is_train=False)

    def theirs(picture: Image.Image) -> NDArray[np.uint8]:
        return (transform(picture) * 255).round().byte().permute(1, 2, 0).numpy()

    frames = [frame for frame in sampled(path, size, size, "crop") if frame.pts_seconds < COMPARED_SECONDS]
    frames = frames[:: max(len(frames) // COMPARED_COUNT, 1)][:COMPARED_COUNT]
    ours = {round(frame.pts_seconds, 3): frame.pixels for frame in frames}
    with av.open(str(path)) as container:
        aspect = container.streams.video[0].sample_aspect_ratio or Fraction(1)
    pictures = dict(whole_pictures(path, list(ours)))
    width, height = next(iter(pictures.values())).size
    display = (round(width * aspect), height)
    same_rgb = {
        round(frame.pts_seconds, 3): Image.fromarray(frame.pixels)
        for frame in sampled(path, *display, "squash")
        if round(frame.pts_seconds, 3) in pictures
    }
    vectors = encoder.encode_frames(np.stack([ours[time] for time in pictures]))
    references = (
        [theirs(picture) for picture in pictures.values()],
        [theirs(picture.resize(display, Image.Resampling.BICUBIC)) for picture in pictures.values()],
        [theirs(same_rgb[time]) for time in pictures],
    )
    cosines = [(vectors * encoder.encode_frames(np.stack(reference))).sum(axis=1) for reference in references]
    return np.stack(cosines), f"{width}x{height}", aspect


def ranks(
    videos: Sequence[Video], means: NDArray[np.float32], encoder: MiniEncoder, half: str, only_wide: bool
) -> list[int]:
    """Return the rank of the right video, from 1, for each caption of a half, among all videos."""
    bias = means @ encoder.encode_texts(BANK).mean(axis=0)  # (V,)
    found = []
    for index, video in enumerate(videos):
        if video.half == half and (video.is_wide or not only_wide):
            scores = encoder.encode_texts(video.captions) @ means.T - bias  # (Q, V)
            found.extend(int((row > row[index]).sum()) + 1 for row in scores)
    return found


def mean_vector(video: Video, encoder: MiniEncoder, policy: ResizePolicy) -> NDArray[np.float32]:
    """Embed a whole video: the mean of its frames, float32 (D,)."""
    say(f"{policy} {video.path.name}")
    frames = sampled(video.path, encoder.input_width, encoder.input_height, policy)
    return encoder.encode_frames(np.stack([frame.pixels for frame in frames])).mean(axis=0)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def resize_table(videos: Sequence[Video], encoder: MiniEncoder) -> list[str]:
    """Table 2: whole-video recall by resize policy."""
    lines = [
        "| resize | half | right video is | questions | R@1 | R@5 | median rank | mean 1/rank |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for policy in POLICIES:
        means = np.stack([mean_vector(video, encoder, policy) for video in videos])
        for half, only_wide in (("train", True), ("train", False), ("report", True), ("report", False)):
            found = np.array(ranks(videos, means, encoder, half, only_wide))
            shape = "16:9" if only_wide else "all"
            lines.append(
                f"| {policy} | {half} | {shape} | {len(found)} | {(found <= 1).mean():.2f} | {(found <= 5).mean():.2f} "
                f"| {np.median(found):g} | {(1 / found).mean():.3f} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    encoder, _ = load_visual(VisualConfig(model="mini"))
    assert isinstance(encoder, MiniEncoder)
    videos = read_videos(arguments.videos)
    text = "\n".join(
        [
            "# Preprocessing",
            "",
            f"{date.today()}, {machine()}, {len(videos)} real videos, open_clip "
            f"{open_clip.__version__}, PyAV {av.__version__}; mini {encoder.fingerprint}: {encoder.config.trained}.",
            "`python benchmarks/preprocessing.py VIDEOS --out benchmarks/results/preprocessing.md`",
            "",
            "## Our frames against open_clip's image_transform (crop)",
            "",
            *cosine_table(videos, encoder),
            "",
            "## Which resize, by whole-video retrieval with mini",
            "",
            *resize_table(videos, encoder),
            "",
        ]
    )
    if arguments.out:
        arguments.out.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
