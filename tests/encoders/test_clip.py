"""The visual encoder: a tiny open_clip model we make, in every way of naming one; and which encoder "auto" takes."""

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from encoders import clip, weights
from encoders.clip import OpenClipEncoder, load_visual
from encoders.config import SentenceConfig, VisualConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.mini import MiniEncoder
from encoders.sentence import SentenceEncoder

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "resize_mode": "squash", "interpolation": "bicubic"}
MIN_CONTRAST = 10.0  # least standard deviation of the pixels of a picture that is compared


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local-dir: of a tiny random model, which also makes "kinodex-tiny" an architecture of open_clip."""
    import open_clip  # here, as it takes seconds and most processes of a run do without

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": PREPROCESS}))
    architecture = tmp_path_factory.mktemp("architecture") / "kinodex-tiny.json"
    architecture.write_text(json.dumps(TINY))
    open_clip.add_model_config(architecture)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("kinodex-tiny")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    torch.save(state, folder / "tiny.pt")
    return folder


@pytest.fixture(scope="module")
def encoder(tiny_folder: Path) -> OpenClipEncoder:
    return load(f"local-dir:{tiny_folder}")


@pytest.fixture(scope="module")
def sentence() -> SentenceEncoder:
    return SentenceEncoder.load(SentenceConfig())


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clip, "hub_answers", lambda repository: False)
    monkeypatch.setattr(clip, "cached_weights", lambda repository, filenames=(): None)


def load(name: str, **settings: int) -> OpenClipEncoder:
    encoder, _ = load_visual(VisualConfig(model=name, device="cpu", **settings))
    assert isinstance(encoder, OpenClipEncoder)
    return encoder


def load_as(dtype: torch.dtype, name: str, monkeypatch: pytest.MonkeyPatch, **settings: int) -> OpenClipEncoder:
    """Load with the type that another machine may choose."""
    monkeypatch.setattr(clip, "choose_dtype", lambda device: dtype)
    return load(name, **settings)


def pictures(count: int, size: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2)


@pytest.mark.slow
def test_reads_size_and_resize_of_the_model(encoder: OpenClipEncoder) -> None:
    assert (encoder.input_width, encoder.input_height, encoder.resize) == (64, 64, "squash")
    assert encoder.width == 24


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "atol", "max_distance"), [(torch.float32, 1e-5, 1e-6), (torch.bfloat16, 1e-2, 1e-4)])
def test_frames_equal_open_clips_own_preprocessing(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, atol: float, max_distance: float
) -> None:
    import open_clip
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_folder}")
    pixels = pictures(3)
    with torch.inference_mode():
        batch = torch.stack([preprocess(Image.fromarray(picture)) for picture in pixels])
        expected = model.eval().encode_image(batch, normalize=True).numpy()
    found = load_as(dtype, f"local-dir:{tiny_folder}", monkeypatch).encode_frames(pixels)
    np.testing.assert_allclose(found, expected, atol=atol)
    assert (found * expected).sum(axis=1).min() > 1 - max_distance


@pytest.mark.slow
def test_texts_equal_open_clips_own(encoder: OpenClipEncoder, tiny_folder: Path) -> None:
    import open_clip

    model = open_clip.create_model(f"local-dir:{tiny_folder}").eval()
    texts = ["a dog", "a cat " * 100]  # the second is longer than the context
    with torch.inference_mode():
        expected = model.encode_text(open_clip.tokenize(texts), normalize=True).numpy()
    np.testing.assert_allclose(encoder.encode_texts(texts), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "atol", "max_distance"), [(torch.float32, 1e-4, 1e-6), (torch.bfloat16, 5e-2, 1e-3)])
def test_vectors_do_not_depend_on_the_batch(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, atol: float, max_distance: float
) -> None:
    encoder, pixels = load_as(dtype, f"local-dir:{tiny_folder}", monkeypatch), pictures(5)
    together = load_as(dtype, f"local-dir:{tiny_folder}", monkeypatch, batch_count=2).encode_frames(pixels)
    alone = np.concatenate([encoder.encode_frames(pixels[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=atol)
    assert (together * alone).sum(axis=1).min() > 1 - max_distance
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_nothing_in_gives_nothing_out(encoder: OpenClipEncoder) -> None:
    assert encoder.encode_frames(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 24)
    assert encoder.encode_texts([]).shape == (0, 24)


@pytest.mark.slow
def test_refuses_frames_of_another_size(encoder: OpenClipEncoder) -> None:
    with pytest.raises(ValueError, match="64, 64, 3"):
        encoder.encode_frames(np.zeros((1, 32, 64, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["tiny.pt", "open_clip_model.safetensors"])
def test_loads_an_architecture_with_a_file(tiny_folder: Path, encoder: OpenClipEncoder, file: str) -> None:
    other = load(f"kinodex-tiny:{tiny_folder / file}")
    np.testing.assert_allclose(other.encode_texts(["a dog"]), encoder.encode_texts(["a dog"]), atol=1e-6)
    assert other.resize == "crop"  # a bare file brings no preprocessing: open_clip's default
    assert other.fingerprint != encoder.fingerprint


@pytest.mark.slow
def test_its_name_loads_it_again(tiny_folder: Path, encoder: OpenClipEncoder) -> None:
    again, line = load_visual(VisualConfig(device="cpu"), remembered=encoder.name)
    assert again is not None
    assert again.fingerprint == encoder.fingerprint
    assert "data directory" in line


@pytest.mark.slow
def test_other_weights_have_another_fingerprint(tiny_folder: Path, tmp_path: Path) -> None:
    state = torch.load(tiny_folder / "tiny.pt", weights_only=True)
    torch.save({**state, "logit_scale": state["logit_scale"] + 1e-3}, tmp_path / "other.pt")
    first, second = load(f"kinodex-tiny:{tiny_folder / 'tiny.pt'}"), load(f"kinodex-tiny:{tmp_path / 'other.pt'}")
    assert first.fingerprint != second.fingerprint


@pytest.fixture
def hub_cache(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model as the hub's client caches it; who asks the hub itself, fails."""
    from huggingface_hub import constants

    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (snapshot / name).write_bytes((tiny_folder / name).read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(clip, "hub_answers", lambda repository: pytest.fail("asked the hub"))


@pytest.mark.slow
@pytest.mark.usefixtures("hub_cache")
def test_loads_a_cached_repository_without_asking_the_hub(encoder: OpenClipEncoder) -> None:
    cached = load("hf-hub:org/tiny")
    assert cached.name == "hf-hub:org/tiny"
    assert cached.fingerprint == encoder.fingerprint  # the same weights and preprocessing, by another way


@pytest.mark.slow
@pytest.mark.usefixtures("hub_cache")
def test_loads_a_cached_tag_with_its_preprocessing(monkeypatch: pytest.MonkeyPatch, encoder: OpenClipEncoder) -> None:
    from open_clip import pretrained

    monkeypatch.setitem(pretrained._PRETRAINED, "kinodex-tiny", {"made": {"hf_hub": "org/tiny/", **PREPROCESS}})
    cached = load("kinodex-tiny/made")
    assert cached.name == "kinodex-tiny/made"
    assert cached.resize == "squash"
    np.testing.assert_allclose(cached.encode_frames(pictures(2)), encoder.encode_frames(pictures(2)), atol=1e-6)


class Evil:
    """Runs code where an unpickler lets it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.slow
def test_a_checkpoint_runs_no_code(tiny_folder: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    for name in ("evil.pt", "bare.pt"):
        with pytest.raises(WeightsInvalid, match=name):
            load(f"kinodex-tiny:{tmp_path / name}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("empty.pt", b""),
        ("text.pt", b"<html>404</html>"),
        ("text.safetensors", b"<html>404</html>"),
        ("cut.pt", None),
        ("cut.safetensors", None),
    ],
)
def test_a_damaged_file_is_named(tiny_folder: Path, tmp_path: Path, file: str, content: bytes | None) -> None:
    if content is None:
        whole = "tiny.pt" if file.endswith(".pt") else "open_clip_model.safetensors"
        content = (tiny_folder / whole).read_bytes()[:50_000]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WeightsInvalid, match=file) as caught:
        load(f"kinodex-tiny:{tmp_path / file}")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_weights_of_another_model_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsInvalid, match=r"other\.pt"):
        load(f"kinodex-tiny:{tmp_path / 'other.pt'}")


@pytest.mark.slow
def test_a_folder_without_weights_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((tiny_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(WeightsInvalid):
        load(f"local-dir:{tmp_path}")


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ViT-B-32/laion2b_s34b_b79k", "the hub does not answer"),
        ("hf-hub:nobody/nothing", "the hub does not answer"),
        ("ViT-B-33/laion2b_s34b_b79k", "did you mean ViT-B-32"),
        ("ViT-B-32/laion2b_s34b", "closest: laion2b_s34b_b79k"),
        ("ViT-B-32:/nowhere/file.pt", "no such file"),
        ("local-dir:/nowhere", "no open_clip_config.json"),
        ("rubbish", "no such model"),
    ],
)
def test_what_cannot_be_had_fails_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(WeightsNotFound, match=reason) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert caught.value.model == name


@pytest.mark.usefixtures("no_network")
def test_auto_is_mini_where_nothing_stronger_is_in_reach(sentence: SentenceEncoder) -> None:
    encoder, line = load_visual(VisualConfig(), sentence)
    assert isinstance(encoder, MiniEncoder)
    assert "mini" in line
    assert "\n" not in line


@pytest.mark.usefixtures("no_network")
def test_auto_is_nothing_where_mini_is_missing_too(monkeypatch: pytest.MonkeyPatch, sentence: SentenceEncoder) -> None:
    def missing(*_: object) -> MiniEncoder:
        raise WeightsNotFound("mini", "cannot read mini.json")

    monkeypatch.setattr(MiniEncoder, "load", missing)
    encoder, line = load_visual(VisualConfig(), sentence)
    assert encoder is None
    assert "mini.json" in line


def test_auto_takes_what_the_data_directory_remembers(
    monkeypatch: pytest.MonkeyPatch, sentence: SentenceEncoder
) -> None:
    monkeypatch.setattr(clip, "hub_answers", lambda repository: pytest.fail("asked the hub"))
    assert isinstance(load_visual(VisualConfig(), sentence, remembered="mini")[0], MiniEncoder)
    assert load_visual(VisualConfig(), sentence, remembered="none")[0] is None


def test_none_is_no_encoder() -> None:
    assert load_visual(VisualConfig(model="none"))[0] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cached", "answers", "expected"),
    [
        ({"PE-Core-B-16"}, False, ["PE-Core-B-16/meta"]),
        ({"PE-Core-L-14-336"}, False, []),  # not on a CPU
        ({"ViT-B-32-256"}, True, ["PE-Core-B-16/meta"]),  # the better one can be had
        (set(), True, ["PE-Core-B-16/meta"]),
        (set(), False, []),
    ],
)
def test_auto_takes_the_best_listed_model_in_reach(
    monkeypatch: pytest.MonkeyPatch,
    sentence: SentenceEncoder,
    encoder: OpenClipEncoder,
    cached: set[str],
    answers: bool,
    expected: list[str],
) -> None:
    loaded: list[str] = []

    def load_open_clip(name: str, config: VisualConfig) -> OpenClipEncoder:
        loaded.append(name)
        return encoder

    monkeypatch.setattr(clip, "load_open_clip", load_open_clip)
    monkeypatch.setattr(clip, "hub_answers", lambda repository: answers)
    monkeypatch.setattr(
        clip, "cached_weights", lambda name, files=(): Path("x") if any(part in name for part in cached) else None
    )
    taken, _ = load_visual(VisualConfig(device="cpu"), sentence)
    assert loaded == expected
    assert (taken is encoder) == bool(expected)


@pytest.mark.usefixtures("no_network")
def test_auto_passes_over_what_fails_to_download(monkeypatch: pytest.MonkeyPatch, sentence: SentenceEncoder) -> None:
    monkeypatch.setattr(clip, "hub_answers", lambda repository: True)

    def fail(name: str, config: VisualConfig) -> OpenClipEncoder:
        raise WeightsNotFound(name, "the download broke")

    monkeypatch.setattr(clip, "load_open_clip", fail)
    assert isinstance(load_visual(VisualConfig(device="cpu"), sentence)[0], MiniEncoder)


@pytest.mark.slow
@pytest.mark.parametrize("listed", weights.LISTED, ids=lambda listed: listed.name)
def test_every_listed_model_is_one_of_open_clips(listed: weights.ListedModel) -> None:
    import open_clip

    model, _, tag = listed.name.partition("/")
    assert open_clip.get_pretrained_cfg(model, tag)["hf_hub"].strip("/") == listed.repository


@pytest.mark.slow
def test_decoded_frames_look_to_an_encoder_as_open_clips_own_do(shared: Path, sentence: SentenceEncoder) -> None:
    """libswscale in ingest against Pillow in open_clip, seen by mini: its trained weights feel a difference."""
    import av
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from ingest.config import DecodeConfig
    from ingest.media.decode import decode
    from ingest.values import Frame

    mini = MiniEncoder.load(VisualConfig(device="cpu"), sentence)
    size = mini.input_width
    theirs = image_transform_v2(PreprocessCfg(size=size, mean=(0.0,) * 3, std=(1.0,) * 3), is_train=False)
    for name in ("Valley__video9613.mp4", "sam2__01_dog.mp4", "Video-LLaVA__sample_demo_16.mp4"):
        path = shared / "videos" / "files" / name
        config = DecodeConfig(input_width=size, input_height=size, resize="crop")
        with path.open("rb") as file:
            frames = [item for item in decode(file, uri=name, config=config) if isinstance(item, Frame)]
        # Pictures in a fade from black are left out: their vectors move by a cosine of 0.02 with bfloat16 alone.
        frames = [frame for frame in frames if frame.pixels.std() >= MIN_CONTRAST]
        ours = {round(frame.pts_seconds, 3): frame.pixels for frame in frames[:4]}
        expected = {}
        with av.open(str(path)) as container:
            decoded = container.decode(video=0)
            first = next(decoded)
            for frame in itertools.chain([first], decoded):
                time_seconds = round(frame.time - first.time, 3)
                if time_seconds in ours:
                    expected[time_seconds] = (theirs(frame.to_image()) * 255).round().byte().permute(1, 2, 0).numpy()
        assert set(expected) == set(ours)
        left = mini.encode_frames(np.stack([ours[key] for key in sorted(ours)]))
        right = mini.encode_frames(np.stack([expected[key] for key in sorted(ours)]))
        assert (left * right).sum(axis=1).min() >= 0.99, name
