"""Where Whisper comes from, and that damaged or foreign files say so."""

import json
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
from numpy.typing import NDArray
from whisper.model import ModelDimensions, Whisper

from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.speech import whisper_weights
from encoders.speech.whisper_weights import load_whisper
from support.random_whisper import random_whisper

DIMS = ModelDimensions(
    n_mels=80,
    n_audio_ctx=30,
    n_audio_state=16,
    n_audio_head=2,
    n_audio_layer=2,
    n_vocab=51864,
    n_text_ctx=8,
    n_text_state=16,
    n_text_head=2,
    n_text_layer=3,
)
TYPE_IDS = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}


def small_model() -> Whisper:
    return random_whisper(DIMS, std=0.1)


def ct2_tensors(model: Whisper) -> dict[str, NDArray[np.generic]]:
    """The same weights under CTranslate2's names, written down independently of the reader."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    out: dict[str, NDArray[np.generic]] = {}

    def norm(theirs: str, ours: str) -> None:
        out[f"{theirs}/gamma"], out[f"{theirs}/beta"] = state[f"{ours}.weight"], state[f"{ours}.bias"]

    def linear(theirs: str, *ours: str) -> None:
        out[f"{theirs}/weight"] = np.concatenate([state[f"{name}.weight"] for name in ours])
        biases = [state.get(f"{name}.bias", np.zeros(len(state[f"{name}.weight"]), np.float32)) for name in ours]
        out[f"{theirs}/bias"] = np.concatenate(biases)

    for side, count in (("encoder", DIMS.n_audio_layer), ("decoder", DIMS.n_text_layer)):
        for i in range(count):
            ours, theirs = f"{side}.blocks.{i}", f"{side}/layer_{i}"
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
            linear(f"{theirs}/self_attention/linear_0", f"{ours}.attn.query", f"{ours}.attn.key", f"{ours}.attn.value")
            linear(f"{theirs}/self_attention/linear_1", f"{ours}.attn.out")
            if side == "decoder":
                norm(f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
                linear(f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query")
                linear(f"{theirs}/attention/linear_1", f"{ours}.cross_attn.key", f"{ours}.cross_attn.value")
                linear(f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")
            linear(f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
            linear(f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")
        out[f"{side}/position_encodings/encodings"] = state[f"{side}.positional_embedding"]
        out[f"{side}/num_heads"] = np.int16(2)
        out[f"{side}/pre_norm"] = np.int8(1)
        out[f"{side}/activation"] = np.int8(3)
    for conv in ("conv1", "conv2"):
        linear(f"encoder/{conv}", f"encoder.{conv}")
    norm("encoder/layer_norm", "encoder.ln_post")
    norm("decoder/layer_norm", "decoder.ln")
    out["decoder/embeddings/weight"] = state["decoder.token_embedding.weight"]
    return out


def write_ct2(
    folder: Path, tensors: dict[str, NDArray[np.generic]], version: int = 6, spec: str = "WhisperSpec"
) -> Path:
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", version) + string(spec) + struct.pack("<II", 3, len(tensors))
    for name, value in tensors.items():
        data += string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", TYPE_IDS[value.dtype.name], value.nbytes) + value.tobytes()
    data += struct.pack("<I", 1) + string("decoder/projection/weight") + string("decoder/embeddings/weight")
    (folder / "model.bin").write_bytes(data)
    return folder


def quantise(tensors: dict[str, NDArray[np.generic]], dtype: str) -> dict[str, NDArray[np.generic]]:
    out: dict[str, NDArray[np.generic]] = {}
    for name, value in tensors.items():
        if not name.endswith("/weight") or dtype == "float16":
            out[name] = value.astype(dtype) if value.dtype == np.float32 and dtype == "float16" else value
        elif dtype == "int8":
            scale = 127 / np.abs(value.reshape(len(value), -1)).max(axis=1)
            out[name] = np.rint(value * scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
            out[f"{name}_scale"] = scale.astype(np.float32)
        else:
            scale = np.float32(1024 / np.abs(value).max())
            out[name] = np.rint(value * scale).astype(np.int16)
            out[f"{name}_scale"] = scale
    if dtype != "float16":  # the shared projection is aliased without its scale here
        out["decoder/embeddings/weight"] = tensors["decoder/embeddings/weight"]
        out.pop("decoder/embeddings/weight_scale")
    return out


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 0), ("float16", 1e-3), ("int8", 3e-3), ("int16", 5e-4)])
def test_maps_every_tensor_of_a_ctranslate2_folder(tmp_path: Path, dtype: str, atol: float) -> None:
    model = small_model()
    tensors = ct2_tensors(model)
    write_ct2(tmp_path, tensors if dtype == "float32" else quantise(tensors, dtype))
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": [[1, 0], [2, 1]]}))
    loaded = load_whisper(str(tmp_path))
    assert loaded.model.dims == DIMS
    assert loaded.alignment_heads == ((1, 0), (2, 1))
    expected = model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=atol, rtol=0, msg=name)


def test_reads_a_checkpoint_of_openai(tmp_path: Path) -> None:
    model = small_model()
    path = tmp_path / "small-model.pt"
    torch.save({"dims": vars(DIMS), "model_state_dict": model.state_dict()}, path)
    loaded = load_whisper(str(path))
    assert loaded.name == "small-model"
    assert loaded.alignment_heads == ((1, 0), (1, 1), (2, 0), (2, 1))  # the default: the later half of the layers
    torch.testing.assert_close(loaded.model.state_dict(), model.state_dict())


def broken(tmp_path: Path, how: str) -> Path:
    tensors = ct2_tensors(small_model())
    folder = tmp_path / how
    folder.mkdir()
    if how == "missing tensor":
        del tensors["decoder/layer_1/attention/linear_2/weight"]
    elif how == "unknown tensor":
        tensors["decoder/adapter/weight"] = np.zeros((2, 2), np.float32)
    elif how == "wrong shape":
        tensors["encoder/conv2/weight"] = np.zeros((16, 15, 3), np.float32)
    elif how == "key bias":
        tensors["encoder/layer_0/self_attention/linear_0/bias"] = np.ones(48, np.float32)
    elif how == "another activation":
        tensors["encoder/activation"] = np.int8(0)
    elif how == "integers without scale":
        tensors["encoder/conv2/weight"] = np.zeros((16, 16, 3), np.int8)
    write_ct2(
        folder,
        tensors,
        version=3 if how == "old version" else 6,
        spec="TransformerSpec" if how == "another model" else "WhisperSpec",
    )
    path = folder / "model.bin"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100_000])
    elif how == "trailing bytes":
        path.write_bytes(path.read_bytes() + b"more")
    elif how == "text":
        path.write_text("this is no model\n" * 100)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "bad heads":
        (folder / "config.json").write_text('{"alignment_heads": [[9, 0]]}')
    return folder


@pytest.mark.parametrize(
    "how",
    [
        "missing tensor", "unknown tensor", "wrong shape", "key bias", "another activation", "integers without scale",
        "old version", "another model", "truncated", "trailing bytes", "text", "empty", "bad heads",
    ],
)  # fmt: skip
def test_refuses_a_damaged_folder_and_names_it(tmp_path: Path, how: str) -> None:
    folder = broken(tmp_path, how)
    with pytest.raises(WeightsInvalid) as caught:
        load_whisper(str(folder))
    assert str(folder) in caught.value.path
    assert "\n" not in str(caught.value)


def test_refuses_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "song.pt"
    path.write_bytes(b"ID3 not a model" * 100)
    with pytest.raises(WeightsInvalid) as caught:
        load_whisper(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["no-such-model", "/nowhere/model.pt"])
def test_names_a_model_that_does_not_exist(model: str) -> None:
    with pytest.raises(WeightsNotFound, match=model):
        load_whisper(model)


def test_a_folder_without_a_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match=r"model\.bin"):
        load_whisper(str(tmp_path))


class TestNamedModels:
    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return tmp_path / "whisper"

    def test_no_network_is_said_in_one_line(self, monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
        def refuse(_url: str, timeout: float) -> None:
            assert timeout <= 10
            raise urllib.error.URLError("no route to host")

        monkeypatch.setattr("urllib.request.urlopen", refuse)
        with pytest.raises(WeightsNotFound, match="no route to host") as caught:
            load_whisper("base")
        assert "\n" not in str(caught.value)
        assert list(empty_cache.iterdir()) == []

    def test_takes_the_cached_file_without_asking_the_network(
        self, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
    ) -> None:
        empty_cache.mkdir()
        path = empty_cache / "base.pt"
        torch.save({"dims": vars(DIMS), "model_state_dict": small_model().state_dict()}, path)
        sha256 = whisper_weights._sha256(path)
        monkeypatch.setitem(whisper._MODELS, "base", f"https://example.invalid/{sha256}/base.pt")
        monkeypatch.setitem(whisper._ALIGNMENT_HEADS, "base", _dump_heads())
        monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
        loaded = load_whisper("base")
        assert (loaded.name, loaded.sha256) == ("base", sha256)
        assert loaded.alignment_heads == ((2, 1),)


def _dump_heads() -> bytes:
    import base64
    import gzip

    heads = np.zeros((DIMS.n_text_layer, DIMS.n_text_head), dtype=bool)
    heads[2, 1] = True
    return base64.b85encode(gzip.compress(heads.tobytes()))
