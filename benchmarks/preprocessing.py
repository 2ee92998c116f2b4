"""Measure how frames reach the visual encoder: against open_clip's own preprocessing, and which resize retrieves best.

    python benchmarks/preprocessing.py VIDEOS [--out FILE.md]

VIDEOS is a folder with queries.json and files/. Two tables:
1. The same frames through ingest.decode (libswscale) and through open_clip's image_transform (Pillow) on the whole
   picture as PyAV gives it, both into mini's tower, whose trained weights feel a difference: the cosine.
2. Whole-video recall of mini by crop, squash and pad: score = mean over frames of similarity to the caption, less the
   mean similarity to encoders.probes.BANK. The policy is chosen on the half `train`; `report` is only read.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
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

from encoders.clip import load_visual
from encoders.config import VisualConfig
from encoders.mini import MiniEncoder
from encoders.probes import BANK
from ingest.config import DecodeConfig, ResizePolicy
from ingest.decode import decode
from ingest.values import Frame

POLICIES: tuple[ResizePolicy, ...] = ("crop", "squash", "pad")
COMPARED_COUNT = 5  # frames of a file in table 1, evenly spread: decoding whole pictures is slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """One ordinary video of queries.json."""

    path: Path
    captions: tuple[str, ...]
    half: str


def read_videos(folder: Path) -> list[Video]:
    entries = json.loads((folder / "queries.json").read_text())["videos"]
    return [
        Video(path=folder / "files" / entry["file"], captions=(entry["caption"], entry["alt"]), half=entry["half"])
        for entry in entries
        if entry["role"] == "core"
    ]


def sampled(path: Path, size: int, resize: ResizePolicy) -> list[Frame]:
    """Decode as the product does: one frame a second at the input size."""
    config = DecodeConfig(input_width=size, input_height=size, resize=resize)
    with path.open("rb") as file:
        return [item for item in decode(file, uri=path.name, config=config) if isinstance(item, Frame)]


def whole_pictures(path: Path, times: Sequence[float]) -> Iterator[tuple[float, Image.Image]]:
    """Decode with bare PyAV and give the pictures shown at `times` (seconds from the first), upright."""
    wanted = {round(time, 3) for time in times}
    with av.open(str(path)) as container:
        first: float | None = None
        for frame in decodable(container):
            first = frame.time if first is None else first
            time = round(frame.time - first, 3)
            if time in wanted:
                yield time, upright(frame)


def decodable(container: InputContainer) -> Iterator[VideoFrame]:
    """Step over packets that do not decode, as ingest does."""
    for packet in container.demux(video=0):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


def upright(frame: VideoFrame) -> Image.Image:
    return frame.to_image().rotate(frame.rotation, expand=True)


def cosine_table(videos: Sequence[Video], encoder: MiniEncoder) -> list[str]:
    """Table 1: cosine between our frames and open_clip's preprocessing of the same pictures, policy crop."""
    size = encoder.input_width
    theirs = image_transform_v2(PreprocessCfg(size=size, mean=(0.0,) * 3, std=(1.0,) * 3), is_train=False)
    lines = ["| video | size | frames | cosine, lowest | cosine, mean |", "| --- | --- | --- | --- | --- |"]
    everything: list[float] = []
    for video in videos:
        frames = sampled(video.path, size, "crop")
        frames = frames[:: max(len(frames) // COMPARED_COUNT, 1)][:COMPARED_COUNT]
        ours = {round(frame.pts_seconds, 3): frame.pixels for frame in frames}
        pairs, shape = [], ""
        for time, picture in whole_pictures(video.path, list(ours)):
            shape = f"{picture.width}x{picture.height}"
            pixels = (theirs(picture) * 255).round().byte().permute(1, 2, 0).numpy()
            pairs.append((ours[time], pixels))
        if not pairs:
            lines.append(f"| {video.path.name} | | 0 | | |")
            continue
        left, right = (encoder.encode_frames(np.stack(side)) for side in zip(*pairs, strict=True))
        cosines = (left * right).sum(axis=1)
        everything.extend(cosines)
        lines.append(f"| {video.path.name} | {shape} | {len(pairs)} | {cosines.min():.4f} | {cosines.mean():.4f} |")
    share = np.mean(np.array(everything) >= 0.99)
    lines.append(f"| all | | {len(everything)} | {min(everything):.4f} | {np.mean(everything):.4f} |")
    return [*lines, "", f"{share:.1%} of the frames have a cosine of at least 0.99."]


def ranks(videos: Sequence[Video], means: NDArray[np.float32], encoder: MiniEncoder, half: str) -> list[int]:
    """Rank, from 1, of the right video for each caption of one half, among all videos."""
    bias = means @ encoder.encode_texts(BANK).mean(axis=0)  # (V,)
    found = []
    for index, video in enumerate(videos):
        if video.half == half:
            scores = encoder.encode_texts(video.captions) @ means.T - bias  # (Q, V)
            found.extend(int((row > row[index]).sum()) + 1 for row in scores)
    return found


def resize_table(videos: Sequence[Video], encoder: MiniEncoder) -> list[str]:
    """Table 2: whole-video recall by resize policy."""
    lines = [
        "| resize | half | questions | R@1 | R@5 | median rank | mean 1/rank |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for policy in POLICIES:
        means = np.stack(
            [
                encoder.encode_frames(
                    np.stack([f.pixels for f in sampled(video.path, encoder.input_width, policy)])
                ).mean(axis=0)
                for video in videos
            ]
        )
        for half in ("train", "report"):
            found = np.array(ranks(videos, means, encoder, half))
            lines.append(
                f"| {policy} | {half} | {len(found)} | {(found <= 1).mean():.2f} | {(found <= 5).mean():.2f} "
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
