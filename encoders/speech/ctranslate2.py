"""Reads Whisper from a CTranslate2 folder: its tensors, renamed and dequantised into openai-whisper's state dict."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from whisper.model import ModelDimensions, Whisper

from encoders.errors import WeightsInvalid, WeightsNotFound

FILE = "model.bin"
VERSIONS = range(4, 7)  # of the binary layout that _read_tensors reads; version 4 is from 2020
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "<u2"}  # 5 is bfloat16, which NumPy does not have
BFLOAT16 = 5
GELU = 3  # ctranslate2.specs.Activation.GELU, the only one Whisper uses
# Scalars that steer CTranslate2. With other values the tensors would not fit openai-whisper's computation.
FIXED_SCALARS = {"activation": GELU, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}
FREE_SCALARS = {"alignment_heads", "alignment_layer", "num_heads"}  # read elsewhere or not needed


def convert(folder: Path) -> tuple[Whisper, tuple[tuple[int, int], ...]]:
    """Read a CTranslate2 folder.

    Returns:
        The model on the CPU in float32, and the (layer, head) pairs of its alignment heads.
    Raises:
        WeightsNotFound: If the folder holds no model.bin.
        WeightsInvalid: If the model or its config.json is damaged or of another kind.
    """
    path = folder / FILE
    if not path.is_file():
        raise WeightsNotFound(str(folder), "the folder holds no model.bin")
    try:
        tensors = _read_tensors(path)
        dims = _infer_dims(tensors)
        state = dict(_map_state(tensors, dims, path))
        model = Whisper(dims)
        model.load_state_dict(state)
    except (struct.error, KeyError, IndexError, ValueError, RuntimeError) as error:
        reason = f"no tensor {error}" if isinstance(error, KeyError) else str(error).replace("\n", " ")
        raise WeightsInvalid(str(path), f"not a CTranslate2 Whisper model ({reason})") from error
    return model.eval(), _read_heads(folder, model)


def _read_tensors(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read all variables of a model.bin by name, dequantised to float32 (scalars unchanged).

    Layout, little endian: u32 version; string spec; u32 revision; u32 count; then per variable: string name,
    u8 rank, u32 dims[rank], u8 dtype, u32 byte count, data; then u32 count of aliases, each two strings.
    A string is a u16 length, which counts the closing zero byte, and its bytes. A quantised X has an X_scale, with
    X = integers / scale, one scale for each row (int8) or one for all (int16).
    Source: ctranslate2/specs/model_spec.py, `_serialize` and `_quantize`.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    position = 0

    def take(byte_count: int) -> bytes:
        nonlocal position
        if position + byte_count > len(data):
            raise ValueError(f"the file ends at byte {len(data)}, inside a variable")
        position += byte_count
        return data[position - byte_count : position].tobytes()

    def number(code: str) -> int:
        return int(struct.unpack(f"<{code}", take(struct.calcsize(code)))[0])

    def string() -> str:
        return take(number("H"))[:-1].decode()

    version = number("I")
    if version not in VERSIONS:
        raise ValueError(f"binary version {version}, supported are {VERSIONS.start} to {VERSIONS[-1]}")
    spec, _revision = string(), number("I")
    if spec != "WhisperSpec":
        raise ValueError(f"the file holds a {spec}")
    raw: dict[str, NDArray[np.generic]] = {}
    for _ in range(number("I")):
        name, rank = string(), number("B")
        shape = tuple(number("I") for _ in range(rank))
        dtype, byte_count = number("B"), number("I")
        if dtype not in DTYPES:
            raise ValueError(f"{name} has the unknown type {dtype}")
        values = np.frombuffer(take(byte_count), dtype=DTYPES[dtype]).reshape(shape)
        if dtype == BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is float32's upper half
        if name in raw:
            raise ValueError(f"{name} occurs twice")
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
            raise ValueError(f"{name} holds integers without a scale")
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
    """Yield openai-whisper's state dict. Each tensor is used exactly once; load_state_dict checks shapes."""
    remaining = dict(tensors)

    def take(name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(remaining.pop(name), dtype=np.float32))

    def linear(target: str, source: str, names: tuple[str, str] = ("weight", "bias")) -> Iterator[tuple[str, Tensor]]:
        yield f"{target}.weight", take(f"{source}/{names[0]}")
        yield f"{target}.bias", take(f"{source}/{names[1]}")

    def norm(target: str, source: str) -> Iterator[tuple[str, Tensor]]:
        return linear(target, source, ("gamma", "beta"))

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
            yield from linear(f"{target}.attn.out", f"{source}/self_attention/linear_1")
            if side == "decoder":
                yield from norm(f"{target}.cross_attn_ln", f"{source}/attention/layer_norm")
                yield from linear(f"{target}.cross_attn.query", f"{source}/attention/linear_0")
                yield from fused(f"{target}.cross_attn", f"{source}/attention/linear_1", ("key", "value"))
                yield from linear(f"{target}.cross_attn.out", f"{source}/attention/linear_2")
            yield from norm(f"{target}.mlp_ln", f"{source}/ffn/layer_norm")
            yield from linear(f"{target}.mlp.0", f"{source}/ffn/linear_0")
            yield from linear(f"{target}.mlp.2", f"{source}/ffn/linear_1")
        yield f"{side}.positional_embedding", take(f"{side}/position_encodings/encodings")
    yield from linear("encoder.conv1", "encoder/conv1")
    yield from linear("encoder.conv2", "encoder/conv2")
    yield from norm("encoder.ln_post", "encoder/layer_norm")
    yield from norm("decoder.ln", "decoder/layer_norm")
    embedding = take("decoder/embeddings/weight")
    if not torch.equal(take("decoder/projection/weight"), embedding):
        raise ValueError("decoder/projection/weight differs from the embeddings, Whisper shares them")
    yield "decoder.token_embedding.weight", embedding
    for name, value in remaining.items():
        key = name.rsplit("/", 1)[-1]
        if key in FIXED_SCALARS and value.ndim == 0:
            if int(value) != FIXED_SCALARS[key]:
                raise ValueError(f"{name} is {int(value)}, Whisper needs {FIXED_SCALARS[key]}")
        elif key not in FREE_SCALARS:
            raise ValueError(f"Whisper has no place for the tensor {name}")


def _read_heads(folder: Path, model: Whisper) -> tuple[tuple[int, int], ...]:
    """Read the alignment heads from config.json; the default is openai-whisper's: the later half of the layers."""
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
