"""Libraries composed of labelled pictures: what is read of the tars, and that `kinodex train` learns from them."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from encoders.errors import PicturesInvalid
from serve.catalog.catalog import Catalog
from serve.cli.main import cli
from serve.evaluate.composed_library import (
    BATCH_COUNT,
    PICTURES_PER_LABEL,
    find_pictures,
    holds_out,
    make_view,
    part_of,
    view_pictures,
)
from serve.evaluate.training_data import read_captions
from support.fakes import COLOURS, ColourEncoder, use_fakes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tars of pictures of one colour, more of each than are read; one is for validation."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("one.tar", "one-val.tar"):
        with tarfile.open(pictures / name, "w") as tar:
            rows = []
            for number in range(2 * PICTURES_PER_LABEL):
                for label, rgb in COLOURS.items():
                    key = f"{label}{number}"
                    stored = io.BytesIO()
                    Image.new("RGB", (32, 24), tuple(int(255 * part) for part in rgb)).save(stored, "webp")
                    add(tar, f"{key}.webp", stored.getvalue())
                    rows.append({"key": key, "captions": [f"{label} paint"], "label": label, "source": "ours",
                                 "kind": "object"})  # fmt: skip
            add(tar, "index.jsonl.gz", gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return pictures


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_a_few_pictures_of_each_label_are_viewed_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, cache = ColourEncoder(), tmp_path / "work" / "pictures.npz"
    assert [path.name for path in find_pictures(folder)] == ["one.tar"]
    views = view_pictures(find_pictures(folder), encoder, cache)
    assert {label: len(rows) for label, rows in views.pictures.items()} == dict.fromkeys(COLOURS, PICTURES_PER_LABEL)
    for label, vectors in zip(views.labels, views.vectors, strict=True):
        assert (vectors @ encoder.encode_texts([label])[0] > 0.9).all()
    monkeypatch.setattr(ColourEncoder, "encode_frames", None)
    again = view_pictures(find_pictures(folder), encoder, cache)
    assert again.labels == views.labels
    assert np.array_equal(again.vectors, views.vectors)


def test_labels_are_learnt_from_or_held_out(folder: Path, tmp_path: Path) -> None:
    views = view_pictures(find_pictures(folder), ColourEncoder(), tmp_path / "pictures.npz")
    learnt, held_out = part_of(views, is_held_out=False), part_of(views, is_held_out=True)
    assert set(learnt.labels) | set(held_out.labels) == set(views.labels)
    assert not set(learnt.labels) & set(held_out.labels)
    assert 0.05 < np.mean([holds_out(str(n)) for n in range(1000)]) < 0.15


def test_a_folder_without_tars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PicturesInvalid, match="there is no"):
        find_pictures(tmp_path)


def test_views_have_the_input_size() -> None:
    pixels = np.full((BATCH_COUNT, BATCH_COUNT, 3), 200, np.uint8)
    encoder = ColourEncoder()
    for rng in (None, np.random.default_rng(1)):
        assert make_view(pixels, encoder, rng).shape == (encoder.input_height, encoder.input_width, 3)


@pytest.mark.slow
def test_train_composes_its_videos(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    out = tmp_path / "out"
    command = ["train", "--pictures", str(folder), "--out", str(out), "--steps", "2", "--batch", "8"]
    result = CliRunner().invoke(cli, [*command, "--videos", "40", "--json"])
    assert result.exit_code == 0, result.stderr
    assert Path(json.loads(result.stdout)["checkpoint"]).exists()
    captions = read_captions(out / "composed" / "captions.jsonl")
    with Catalog.open_reader(out / "composed") as catalog:
        assert {caption.video for caption in captions} == {video.video_id for video in catalog.videos()}
    both = CliRunner().invoke(cli, [*command, "--data", str(out)])
    assert both.exit_code == 2
    assert "--pictures goes without" in both.stderr
