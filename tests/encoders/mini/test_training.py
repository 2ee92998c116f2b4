"""The recipe of mini: reading pictures, changing them, training, stopping, going on, evaluating."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from encoders.config import SentenceConfig, VisualConfig
from encoders.errors import PicturesInvalid, WeightsInvalid
from encoders.mini import MiniEncoder, features, train
from encoders.mini.__main__ import main
from encoders.mini.augment import augment
from encoders.mini.evaluate import evaluate_vectors
from encoders.mini.pictures import Label, load_pictures, read_pictures
from encoders.mini.train import loss_of_captions, mix, schedule
from encoders.sentence import SentenceEncoder

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200)}


@pytest.fixture(scope="module")
def sentence() -> SentenceEncoder:
    return SentenceEncoder.load(SentenceConfig())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on small pictures in small batches; the names of a thousand classes take seconds to encode."""
    monkeypatch.setattr(train, "encode_classes", lambda sentence: torch.eye(1000, 384))
    for module in (train, features):
        monkeypatch.setattr(module, "INPUT_PX", 32)
        monkeypatch.setattr(module, "BATCH_COUNT", 8)
    monkeypatch.setattr(features, "VIEWS_PX", (32, 32))


def write_tar(path: Path, count: int, seed: int = 0, **changes: object) -> Path:
    """Write noisy one-colour pictures; `changes` go into each index line."""
    generator = np.random.default_rng(seed)
    members, lines = {}, []
    for number in range(count):
        colour = list(COLOURS)[number % len(COLOURS)]
        noise = generator.integers(-25, 26, (24, 32, 3))
        buffer = io.BytesIO()
        Image.fromarray((COLOURS[colour] + noise).clip(0, 255).astype(np.uint8)).save(buffer, "webp")
        members[f"{number:04}.webp"] = buffer.getvalue()
        row = {
            "key": f"{number:04}",
            "captions": [f"a {colour} wall", f"something {colour}"],
            "label": colour,
            "source": "drawn here",
            "kind": "object",
            "size": [32, 24],
        }
        lines.append(json.dumps({**row, **changes}))
    return write_members(path, {"index.jsonl.gz": gzip.compress("\n".join(lines).encode()), **members})


def write_members(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_tar(folder / "shard-000.tar", 24)
    write_tar(folder / "val.tar", 9, seed=1)
    return folder


# ------------------------------------------------------------------ pictures
def test_pictures_are_squashed_and_keep_their_captions(data: Path) -> None:
    pictures = load_pictures([data / "val.tar"], 16)
    assert pictures.pixels.shape == (9, 16, 16, 3)
    assert pictures.labels[0] == Label(
        captions=("a red wall", "something red"), label="red", kind="object", source="drawn here"
    )
    np.testing.assert_allclose(pictures.pixels[1].mean(axis=(0, 1)), COLOURS["green"], atol=8)


def test_excluded_sources_are_passed_over(tmp_path: Path) -> None:
    free, other = write_tar(tmp_path / "a.tar", 3), write_tar(tmp_path / "b.tar", 4, source="not free")
    assert len(list(read_pictures([free, other], 16, frozenset({"not free"})))) == 3
    assert len(load_pictures([free, other], 16)) == 7


def damaged(name: str, folder: Path) -> Path:
    path = folder / "damaged.tar"
    if name == "no tar":
        path.write_bytes(b"not a tar")
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "cut off":
        data = write_tar(path, 6).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif name == "no index":
        write_members(path, {"0000.webp": b""})
    elif name == "no picture":
        write_members(path, {"index.jsonl.gz": gzip.compress(b'{"key": "1"}')})
    elif name == "not gzip":
        write_members(path, {"index.jsonl.gz": b"{}"})
    elif name == "not json":
        write_members(path, {"index.jsonl.gz": gzip.compress(b"{")})
    elif name == "no captions":
        write_tar(path, 3, captions=[])
    elif name == "no webp":
        row = {"key": "1", "captions": ["a"], "label": "a", "kind": "object", "source": "here"}
        write_members(path, {"index.jsonl.gz": gzip.compress(json.dumps(row).encode()), "1.webp": b"GIF89a"})
    elif name == "nothing":
        write_members(path, {"index.jsonl.gz": gzip.compress(b"")})
    return path


@pytest.mark.parametrize(
    "name",
    [
        "no tar",
        "empty",
        "cut off",
        "no index",
        "no picture",
        "not gzip",
        "not json",
        "no captions",
        "no webp",
        "nothing",
    ],
)
def test_damaged_pictures_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(PicturesInvalid, match=r"damaged\.tar"):
        load_pictures([damaged(name, tmp_path)], 16)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PicturesInvalid, match=r"none\.tar"):
        load_pictures([tmp_path / "none.tar"], 16)


# ------------------------------------------------------------------ augmentation
def test_augmented_pictures_are_in_range_and_hang_on_the_seed_alone() -> None:
    pixels = torch.randint(0, 256, (5, 32, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, again, other = (augment(pixels, 24, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert first.shape == (5, 3, 24, 24)
    assert first.abs().max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_mixed_features_are_the_weighted_mean_of_both_pictures() -> None:
    torch.manual_seed(0)
    features = torch.eye(64)
    mixed, partner, share = mix(features)
    torch.testing.assert_close(mixed, share[:, None] * features + (1 - share[:, None]) * features[partner])
    assert 16 < int((share < 1).sum()) < 48  # about half are mixed
    assert share.min() >= 0.4


# ------------------------------------------------------------------ loss and schedule
def test_the_loss_is_least_where_pictures_lie_on_their_captions() -> None:
    captions = torch.nn.functional.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    own, scale = torch.arange(4), torch.tensor(20.0)
    whole = torch.ones(4)

    def loss(vectors: torch.Tensor) -> float:
        return loss_of_captions(vectors, own, own.flip(0), whole, captions, scale).item()

    assert loss(captions[:4]) < loss(torch.nn.functional.normalize(captions[:4] + captions[2:6], dim=1))
    assert loss(captions[:4]) < loss(captions[[1, 0, 3, 2]])


def test_a_picture_of_two_things_lies_between_their_captions() -> None:
    captions = torch.eye(4)
    half = torch.full((2,), 0.5)
    between = torch.nn.functional.normalize(captions[:2] + captions[[1, 0]], dim=1)
    own, partner, scale = torch.arange(2), torch.tensor([1, 0]), torch.tensor(5.0)
    assert loss_of_captions(between, own, partner, half, captions, scale) < loss_of_captions(
        captions[:2], own, partner, half, captions, scale
    )


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [schedule(step, 1000) for step in range(1000)]
    peak = int(np.argmax(rates))
    assert max(rates) == 1
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak + 1 :] == sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] < 1e-4


# ------------------------------------------------------------------ training
@pytest.mark.slow
def test_features_of_a_tar_are_computed_once(data: Path, tmp_path: Path) -> None:
    reader, stages = features.TrunkReader("cpu", seed=1), []
    first = features.read_features(data / "shard-000.tar", tmp_path, reader, lambda *stage: stages.append(stage))
    assert first.views.shape == (2, 24, 1280)
    assert [done for _, done, _ in stages] == [0, 8, 16]
    again = features.read_features(data / "shard-000.tar", tmp_path, reader, lambda *stage: stages.append(stage))
    np.testing.assert_array_equal(first.views, again.views)
    assert again.labels == first.labels
    assert len(stages) == 3
    held_out = features.read_features(data / "val.tar", tmp_path, reader, lambda *stage: None)
    assert held_out.views.shape == (1, 9, 1280)  # whole pictures only
    kept = next(tmp_path.glob("val*.safetensors"))
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(WeightsInvalid, match="val"):
        features.read_features(data / "val.tar", tmp_path, reader, lambda *stage: None)


def losses_of(data: Path, out: Path, epochs: int = 2, seed: int = 1, stop_after: int | None = None) -> list[float]:
    losses: list[float] = []

    def on_step(step: int, _steps: int, loss: float) -> None:
        losses.append(loss)
        if len(losses) == stop_after:
            raise KeyboardInterrupt

    train.train_mini(data, out, epochs=epochs, seed=seed, device="cpu", on_step=on_step)
    return losses


@pytest.mark.slow
def test_training_learns_and_leaves_what_kinodex_loads(data: Path, tmp_path: Path, sentence: SentenceEncoder) -> None:
    losses = losses_of(data, tmp_path / "out", epochs=4)
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    encoder = MiniEncoder.load(VisualConfig(device="cpu"), sentence, tmp_path / "out")
    pictures = load_pictures([data / "val.tar"], encoder.input_width)
    assert encoder.encode_frames(pictures.pixels).shape == (9, 384)
    history = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert [report["epoch"] for report in history] == [1, 2, 3, 4]
    assert history[-1]["evaluations"]["val.tar"]["captions"] == 3
    with Image.open(tmp_path / "out" / "training.png") as plot:
        assert min(plot.size) > 300


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 3, 4])  # within an epoch, at its end, in the next
def test_a_stopped_run_ends_as_if_it_had_not_been(data: Path, tmp_path: Path, stop_after: int) -> None:
    whole = losses_of(data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        losses_of(data, tmp_path / "stopped", stop_after=stop_after)
    (tmp_path / "stopped" / "checkpoint.part").write_bytes(b"killed while it wrote")
    rest = losses_of(data, tmp_path / "stopped")
    assert rest == whole[-len(rest) :]
    ends = [(tmp_path / name / "mini.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert ends[0] == ends[1]
    histories = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "stopped")]
    epochs = [[json.loads(line)["epoch"] for line in history.splitlines()] for history in histories]
    assert epochs[0] == epochs[1] == [1, 2]


@pytest.mark.slow
def test_a_finished_run_does_nothing_more(data: Path, tmp_path: Path) -> None:
    losses_of(data, tmp_path / "out", epochs=1)
    assert losses_of(data, tmp_path / "out", epochs=1) == []


@pytest.mark.slow
def test_another_seed_is_another_run(data: Path, tmp_path: Path) -> None:
    losses_of(data, tmp_path / "out", epochs=1)
    with pytest.raises(WeightsInvalid, match="seed"):
        losses_of(data, tmp_path / "out", epochs=1, seed=2)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(WeightsInvalid, match=r"checkpoint\.pt"):
        losses_of(data, tmp_path / "out")


def test_val_is_not_trained_on(tmp_path: Path) -> None:
    write_tar(tmp_path / "val.tar", 9)
    with pytest.raises(PicturesInvalid, match=r"no \.tar"):
        losses_of(tmp_path, tmp_path / "out")


# ------------------------------------------------------------------ evaluation
def one_hot(*rows: Sequence[float]) -> np.ndarray:
    return np.array(rows, np.float32)


class AxisSentence:
    """Three captions, each its own direction."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[["abc".index(text) for text in texts]]


def label(caption: str) -> Label:
    return Label(captions=(caption, "another"), label=caption, kind="object", source="here")


def test_ranks_are_counted_among_distinct_first_captions() -> None:
    vectors = one_hot([1, 0, 0], [0.9, 0.5, 0], [0, 0, 1], [1, 0, 0])
    found = evaluate_vectors(vectors, [label("a"), label("b"), label("c"), label("c")], AxisSentence())  # type: ignore[arg-type]
    assert (found.images, found.captions) == (4, 3)
    assert (found.top1, found.top5) == (0.5, 1.0)


def test_a_tie_counts_against_the_picture() -> None:
    found = evaluate_vectors(one_hot([1, 1, 0]), [label("a")] * 1, AxisSentence())  # type: ignore[arg-type]
    assert found.top1 == 1  # no other caption is in the data
    found = evaluate_vectors(one_hot([1, 1, 0], [0, 1, 0]), [label("a"), label("b")], AxisSentence())  # type: ignore[arg-type]
    assert found.top1 == 0.5


# ------------------------------------------------------------------ the command
@pytest.mark.slow
def test_the_command_trains_and_evaluates(data: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    trained = CliRunner().invoke(main, ["train", str(data), out, "--epochs", "1", "--device", "cpu"])
    assert trained.exit_code == 0, trained.output
    assert "epoch 1: loss" in trained.output
    evaluated = CliRunner().invoke(main, ["evaluate", out, str(data / "val.tar"), "--json"])
    row = json.loads(evaluated.output)
    assert list(row) == ["images", "captions", "top1", "top5", "label_top1", "label_top5"]
    assert (row["images"], row["captions"], row["top5"]) == (9, 3, 1.0)
    table = CliRunner().invoke(main, ["evaluate", out, str(data / "val.tar")])
    assert "object" in table.output


@pytest.mark.parametrize("wrong", [["train", "DATA", "OUT"], ["evaluate", "OUT", "TAR"]])
def test_a_failure_is_one_line(tmp_path: Path, wrong: list[str]) -> None:
    (tmp_path / "DATA").mkdir()
    (tmp_path / "OUT").mkdir()
    (tmp_path / "TAR").write_bytes(b"no tar")
    found = CliRunner().invoke(main, [word if word.islower() else str(tmp_path / word) for word in wrong])
    assert found.exit_code == 1
    assert found.output.strip().splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in found.output


@pytest.mark.slow
def test_the_shipped_mini_knows_pictures_it_was_not_trained_on(shared: Path) -> None:
    from encoders.mini import FOLDER

    found = CliRunner().invoke(main, ["evaluate", str(FOLDER), str(shared / "images" / "val.tar"), "--json"])
    row = json.loads(found.output)
    assert (row["images"], row["captions"]) == (825, 448)
    assert row["top1"] >= 0.50
    assert row["top5"] >= 0.78
