"""The built-in tower: against timm's own MobileNetV2, against its unquantised weights, and in use."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.config import SentenceConfig, VisualConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.mini import FOLDER, MiniEncoder, Tower, fold, pack, unpack
from encoders.sentence import SentenceEncoder

MAX_SHIPPED_BYTES = 12 << 20


@pytest.fixture(scope="module")
def sentence() -> SentenceEncoder:
    return SentenceEncoder.load(SentenceConfig())


@pytest.fixture(scope="module")
def encoder(sentence: SentenceEncoder) -> MiniEncoder:
    return MiniEncoder.load(VisualConfig(device="cpu", batch_count=4), sentence)


def pictures(count: int, size: int = 128) -> np.ndarray:
    """Smooth coloured pictures: each the blow-up of a few random pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2)


def random_reference() -> tuple[torch.nn.Module, torch.nn.Module, dict[str, torch.Tensor]]:
    """timm's tower and a head with random weights and lively BatchNorm statistics, and their state dict."""
    import timm

    generator = torch.Generator().manual_seed(0)
    tower = timm.create_model("mobilenetv2_140", num_classes=0, pad_type="same").eval()
    head = torch.nn.Sequential(
        torch.nn.Identity(), torch.nn.Identity(), torch.nn.Linear(1792, 1024), torch.nn.GELU(),
        torch.nn.Identity(), torch.nn.Linear(1024, 384),
    )  # fmt: skip
    for module in [*tower.modules(), *head.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
    state = {f"tower.{name}": value for name, value in tower.state_dict().items()}
    state.update({f"head.{name}": value for name, value in head.state_dict().items()})
    return tower, head, state


@pytest.mark.filterwarnings("default")  # of timm's own dependencies
@pytest.mark.parametrize("size", [128, 97])  # an odd side: "SAME" padding is lopsided there in another way
def test_folded_tower_equals_timm(size: int) -> None:
    tower, head, state = random_reference()
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(head(tower(x)), dim=1)
        torch.testing.assert_close(Tower(fold(state), "cpu")(x), expected, atol=1e-5, rtol=0)


def test_stored_weights_come_back_within_half_a_step() -> None:
    weights = {
        "head.2.weight": torch.randn(7, 5, generator=torch.Generator().manual_seed(0)),
        "head.2.bias": torch.ones(7),
        "tower.blocks.0.0.conv_dw.weight": torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1)),
    }
    back = unpack(pack(weights))
    step = weights["head.2.weight"].abs().amax(dim=1, keepdim=True) / 127
    assert ((back["head.2.weight"] - weights["head.2.weight"]).abs() <= step / 2 + 1e-6).all()
    assert torch.equal(back["head.2.bias"], weights["head.2.bias"])
    depthwise = "tower.blocks.0.0.conv_dw.weight"  # float16: half of its last bit
    torch.testing.assert_close(back[depthwise], weights[depthwise], atol=0, rtol=2**-11)


@pytest.mark.slow
def test_quantising_keeps_the_vectors_of_real_frames(shared: Path, encoder: MiniEncoder) -> None:
    from safetensors.torch import load_file

    frames = real_frames(shared, encoder.input_width)
    state = load_file(shared / "models" / "mini-trial.fp16.safetensors")
    x = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.inference_mode():
        exact = Tower(fold(state), "cpu")(x)
        stored = Tower(unpack(pack(fold(state))), "cpu")(x)
    assert float((exact * stored).sum(dim=1).min()) >= 0.995


def real_frames(shared: Path, size: int) -> np.ndarray:
    import av

    frames = []
    for path in sorted((shared / "videos" / "files").glob("Va*.mp4")):
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % 50 == 0:
                    frames.append(frame.reformat(size, size, "rgb24", interpolation="BICUBIC").to_ndarray())
    return np.stack(frames)


def test_gives_unit_vectors_that_do_not_depend_on_the_batch(encoder: MiniEncoder) -> None:
    pixels = pictures(6)
    together = encoder.encode_frames(pixels)
    alone = np.concatenate([encoder.encode_frames(pixels[i : i + 1]) for i in range(len(pixels))])
    assert together.shape == (6, encoder.width)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_no_frames_give_no_vectors(encoder: MiniEncoder) -> None:
    assert encoder.encode_frames(np.zeros((0, 128, 128, 3), np.uint8)).shape == (0, 384)


@pytest.mark.parametrize("shape", [(1, 64, 128, 3), (128, 128, 3), (1, 128, 128, 4)])
def test_refuses_frames_of_another_size(encoder: MiniEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="128, 128, 3"):
        encoder.encode_frames(np.zeros(shape, np.uint8))


def test_texts_are_the_sentence_encoders(encoder: MiniEncoder, sentence: SentenceEncoder) -> None:
    np.testing.assert_array_equal(encoder.encode_texts(["a dog"]), sentence.encode(["a dog"]))


@pytest.mark.slow
def test_knows_what_a_real_video_shows(shared: Path, encoder: MiniEncoder) -> None:
    from ingest.config import DecodeConfig
    from ingest.decode import decode
    from ingest.values import Frame

    config = DecodeConfig(input_width=128, input_height=128, resize=encoder.resize)
    path = shared / "videos" / "files" / "sam2__01_dog.mp4"
    with path.open("rb") as file:
        frames = [item.pixels for item in decode(file, uri=path.name, config=config) if isinstance(item, Frame)]
    vector = encoder.encode_frames(np.stack(frames)).mean(axis=0)
    scores = encoder.encode_texts(["a dog", "a plate of food", "a presentation slide", "a car"]) @ vector
    assert scores.argmax() == 0


def test_the_shipped_files_fit_and_say_what_they_are() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_SHIPPED_BYTES
    assert {"mini.json", "mini.safetensors", "MODEL_CARD.md"} <= {path.name for path in FOLDER.iterdir()}


def test_preprocessing_is_part_of_the_fingerprint(
    tmp_path: Path, encoder: MiniEncoder, sentence: SentenceEncoder
) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    same = MiniEncoder.load(VisualConfig(batch_count=9), sentence, tmp_path)
    assert same.fingerprint == encoder.fingerprint
    settings = json.loads((tmp_path / "mini.json").read_text())
    other_policy = "pad" if settings["resize"] != "pad" else "crop"
    (tmp_path / "mini.json").write_text(json.dumps({**settings, "resize": other_policy}))
    assert MiniEncoder.load(VisualConfig(), sentence, tmp_path).fingerprint != encoder.fingerprint


def test_a_missing_file_is_named(tmp_path: Path, sentence: SentenceEncoder) -> None:
    with pytest.raises(WeightsNotFound, match=r"mini\.json"):
        MiniEncoder.load(VisualConfig(), sentence, tmp_path)


@pytest.mark.parametrize(("name", "content"), [("mini.json", b"{"), ("mini.safetensors", b"x" * 64)])
def test_a_damaged_file_is_named(tmp_path: Path, sentence: SentenceEncoder, name: str, content: bytes) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsInvalid, match=name):
        MiniEncoder.load(VisualConfig(), sentence, tmp_path)


def test_a_cut_off_file_is_named(tmp_path: Path, sentence: SentenceEncoder) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    data = (tmp_path / "mini.safetensors").read_bytes()
    (tmp_path / "mini.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsInvalid, match="mini"):
        MiniEncoder.load(VisualConfig(), sentence, tmp_path)


def test_refuses_a_sentence_encoder_of_another_space(sentence: SentenceEncoder) -> None:
    other = SentenceEncoder("other", "00", 384, sentence.encode)
    with pytest.raises(WeightsInvalid, match="all-MiniLM-L6-v2"):
        MiniEncoder.load(VisualConfig(), other)
