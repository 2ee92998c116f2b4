"""Segment vectors of a checkpoint: the same after a reload, and damage has a name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.errors import WeightsInvalid, WeightsNotFound
from temporal.config import FusionConfig
from temporal.fusion.fusion import Fusion, MeanPooling, load_checkpoint, save_checkpoint
from temporal.fusion.model import FusionTransformer
from temporal.values import WindowTokens

CONFIG = FusionConfig(frame_size=24, utterance_size=12, width=32, head_count=4)


def checkpoint(path: Path, *, is_open: bool = True) -> Path:
    torch.manual_seed(3)
    model = FusionTransformer(CONFIG)
    if is_open:
        torch.nn.init.normal_(model.output.weight, std=0.2)
    save_checkpoint(model, path)
    return path


def tokens(frame_count: int, utterance_count: int = 2) -> WindowTokens:
    drawn = np.random.default_rng(frame_count)
    frames = drawn.normal(size=(frame_count, 24)).astype(np.float32)
    return WindowTokens(
        frames=frames / np.linalg.norm(frames, axis=1, keepdims=True),
        frame_seconds=np.arange(frame_count, dtype=np.float32),
        utterances=drawn.normal(size=(utterance_count, 12)).astype(np.float32),
        utterance_seconds=np.arange(utterance_count, dtype=np.float32),
    )


def loaded(path: Path) -> Fusion:
    fusion = Fusion(path, "cpu")
    fusion.load(24, 12)
    return fusion


def test_a_reload_gives_equal_outputs(tmp_path: Path) -> None:
    windows = [tokens(16), tokens(3), tokens(40, 30)]
    before, after = (loaded(checkpoint(tmp_path / name)) for name in ("a", "b"))
    assert before.name == after.name
    for one, other in zip(before.vectors(windows), after.vectors(windows), strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one, other)
        assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)


def test_an_untrained_checkpoint_is_mean_pooling_to_the_bit(tmp_path: Path) -> None:
    windows = [tokens(16), tokens(1, 0), tokens(40)]
    found = loaded(checkpoint(tmp_path / "zero", is_open=False)).vectors(windows)
    for one, mean in zip(found, MeanPooling().vectors(windows), strict=True):
        assert one is not None
        assert mean is not None
        np.testing.assert_array_equal(one, mean)


def test_the_name_changes_with_the_weights(tmp_path: Path) -> None:
    opened, shut = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b", is_open=False)
    assert Fusion(opened, "cpu").name != Fusion(shut, "cpu").name
    assert Fusion(opened, "cpu").name.startswith("fusion ")


def test_a_window_without_pictures_has_no_vector(tmp_path: Path) -> None:
    blind = replace(tokens(3), frames=np.zeros((0, 24), np.float32), frame_seconds=np.zeros(0, np.float32))
    sightless = replace(blind, frames=np.zeros((0, 0), np.float32))  # no visual encoder at all
    for pooling in (loaded(checkpoint(tmp_path / "a")), MeanPooling()):
        assert [one is None for one in pooling.vectors([blind, tokens(2), sightless])] == [True, False, True]
        assert pooling.vectors([]) == []
    opposite = np.stack([np.eye(24, dtype=np.float32)[0], -np.eye(24, dtype=np.float32)[0]])
    assert MeanPooling().vectors([replace(tokens(2), frames=opposite)]) == [None]


def test_damage_has_a_name(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match="No such file"):
        Fusion(tmp_path / "missing", "cpu")
    whole = checkpoint(tmp_path / "whole").read_bytes()
    for name, content in (("empty", b""), ("cut", whole[:-100]), ("text", b"no weights at all, but words")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsInvalid, match="not a checkpoint"):
            loaded(tmp_path / name)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(WeightsInvalid, match="not a checkpoint"):
        load_checkpoint(tmp_path / "other")


def test_vectors_of_other_encoders_are_refused(tmp_path: Path) -> None:
    fusion = Fusion(checkpoint(tmp_path / "a"), "cpu")
    for sizes in ((48, 12), (24, 384)):
        with pytest.raises(WeightsInvalid, match=r"trained for vectors of \(24, 12\) numbers"):
            fusion.load(*sizes)
    fusion.load(0, 12)  # nothing here can see: every window goes without a vector
