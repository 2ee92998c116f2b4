"""Reads labelled pictures from tar files: `index.jsonl.gz` (one JSON object a line), then a `KEY.webp` for each."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from encoders.errors import PicturesInvalid

INDEX = "index.jsonl.gz"
# The licence of this source is not free, so it is never trained on.
EXCLUDED_SOURCES = frozenset({"dalelane/pokemon-images-dataset"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Captions and label of one picture."""

    captions: tuple[str, ...]  # the first one is used for evaluation
    label: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Pictures in memory: uint8 (N, S, S, 3) RGB, each squashed to a square."""

    pixels: NDArray[np.uint8]
    labels: tuple[Label, ...]

    def __len__(self) -> int:
        return len(self.labels)


def is_held_out(path: Path) -> bool:
    """Whether the pictures of a tar are for evaluation only."""
    return path.name.endswith("val.tar")


def read_pictures(
    paths: list[Path],
    side_px: int,
    excluded: frozenset[str],
    is_wanted: Callable[[Label], bool] = lambda label: True,
) -> Iterator[tuple[Label, NDArray[np.uint8]]]:
    """Yield each picture of the tars in order, squashed to uint8 (side_px, side_px, 3).

    Pictures of `excluded` sources are left out, and those that are not wanted, which are not decoded.

    Raises:
        PicturesInvalid: If a tar, its index or one of its pictures cannot be read.
    """
    for path in paths:
        try:
            with tarfile.open(path) as tar:
                index = gzip.decompress(read_member(tar, INDEX)).decode()
                for line in index.splitlines():
                    row = json.loads(line)
                    if row["source"] in excluded:
                        continue
                    label = Label(
                        captions=tuple(row["captions"]), label=row["label"], kind=row["kind"], source=row["source"]
                    )
                    if not label.captions:
                        raise PicturesInvalid(str(path), f"picture {row['key']} has no caption")
                    if not is_wanted(label):
                        continue
                    picture = Image.open(io.BytesIO(read_member(tar, f"{row['key']}.webp"))).convert("RGB")
                    yield label, np.asarray(picture.resize((side_px, side_px), Image.Resampling.BICUBIC))
        except (OSError, tarfile.TarError, KeyError, ValueError, TypeError, UnidentifiedImageError) as error:
            raise PicturesInvalid(str(path), str(error)) from error


def load_pictures(paths: list[Path], side_px: int) -> Pictures:
    """Read the pictures of the tars into memory: 110 kB a picture at 192 px.

    Raises:
        PicturesInvalid: If a tar, its index or one of its pictures cannot be read, or there is no picture.
    """
    labels, pixels = [], []
    for label, picture in read_pictures(paths, side_px, frozenset()):
        labels.append(label)
        pixels.append(picture)
    if not labels:
        raise PicturesInvalid(", ".join(map(str, paths)), "there are no pictures in it")
    return Pictures(pixels=np.stack(pixels), labels=tuple(labels))


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is not a file")
    return member.read()
