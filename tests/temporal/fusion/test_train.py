"""Training fusion: what a step is made of, that a stopped run ends as it would have, and what is promoted."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.errors import WeightsInvalid
from support.training_sets import (
    SIZE,
    directions,
    noisy,
    ordered_pairs,
    share_nearest_to_own,
    video,
    with_whole_captions,
)
from temporal.config import FusionConfig, TrainConfig, WindowConfig
from temporal.errors import TrainingSetInvalid
from temporal.fusion.fusion import Fusion, MeanPooling, load_checkpoint
from temporal.fusion.retrieval_eval import Judgement, judge, segments_of
from temporal.fusion.train import (
    CANDIDATE,
    CHECKPOINT,
    FUSION,
    contrast,
    draw_captions,
    draw_window,
    schedule,
    train_fusion,
)
from temporal.fusion.training_set import TrainingCaption, TrainingSet, split
from temporal.values import Pooling, TimeSpan

pytestmark = pytest.mark.slow

SMALL = FusionConfig(frame_size=SIZE, utterance_size=SIZE, width=64, head_count=4)
BRIEF = TrainConfig(
    steps=12, batch_count=16, learning_rate=1e-3, shortest_seconds=16, report_steps=4, held_out_share=0.2
)


def run(data: TrainingSet, out: Path, config: TrainConfig = BRIEF, **others: object):
    return train_fusion(data, out, config, device="cpu", model_config=SMALL, **others)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path).state_dict())


# ---- data


def test_videos_are_held_apart_whole_and_the_same_each_time() -> None:
    data = ordered_pairs(20)
    groups = split(data, 0.2, seed=1)
    names = [{one.name for one in group.videos} for group in groups]
    assert [len(group) for group in names] == [24, 8, 8]
    assert len(set.union(*names)) == 40
    assert [{one.name for one in group.videos} for group in split(data, 0.2, seed=1)] == names
    assert [{one.name for one in group.videos} for group in split(data, 0.2, seed=2)] != names
    for group in groups:
        for caption, vector in zip(group.captions, group.caption_vectors, strict=True):
            place = [one.name for one in data.videos].index(group.videos[caption.video].name)
            np.testing.assert_array_equal(vector, data.caption_vectors[place])


@pytest.mark.parametrize("count", [1, 0])
def test_too_few_videos_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(TrainingSetInvalid, match=f"{2 * count} videos .* needs at least 4"):
        run(ordered_pairs(2).of_videos(range(2 * count)), tmp_path)


def test_videos_of_many_captions_are_not_held_back_by_the_dozen() -> None:
    clips = ordered_pairs(20)
    captions = [replace(one, video=0) for one in clips.captions[:30]] + list(clips.captions[30:])
    data = TrainingSet(videos=clips.videos, captions=captions, caption_vectors=clips.caption_vectors)
    for seed in range(20):
        learning, choosing, judging = split(data, 0.1, seed)
        assert len(learning.captions) + len(choosing.captions) + len(judging.captions) == 40
        assert len(learning.videos) >= 2
        for group in (choosing, judging):
            assert len(group.captions) in (4, 5) or len(group.captions) >= 30 or len(learning.videos) == 2


def test_few_videos_leave_two_to_learn_from() -> None:
    assert [len(group.videos) for group in split(ordered_pairs(2), 0.4, seed=1)] == [2, 1, 1]


def spoken() -> TrainingSet:
    said = directions(10, seed=8)
    film = video("film", noisy(directions(1)[0], 40, np.random.default_rng(0)), said)
    captions = [
        TrainingCaption(video=0, span=TimeSpan(start_seconds=4.0 * n, end_seconds=4.0 * n + 3), utterance=n)
        for n in range(10)
    ]
    return TrainingSet(videos=[film], captions=captions, caption_vectors=said)


def test_a_window_lies_loosely_over_its_caption_and_does_not_hold_its_words() -> None:
    data, config = spoken(), replace(TrainConfig(), transcript_dropout=0.0, frame_dropout=0.0)
    lengths, offsets = [], []
    for n in range(300):
        row = n % 10
        window = draw_window(data, row, config, np.random.default_rng(n))
        assert not (window.utterances @ data.caption_vectors[row] > 0.99).any()
        begin = data.videos[0].embeddings.pts_seconds
        first = int(np.argmax(data.videos[0].embeddings.vectors @ window.frames[0]))
        last = first + len(window.frames) - 1
        assert begin[first] <= data.captions[row].span.end_seconds
        assert begin[last] + 1 >= data.captions[row].span.start_seconds
        lengths.append(len(window.frames))
        offsets.append(begin[first] - data.captions[row].span.start_seconds)
    assert min(lengths) <= 6
    assert 28 <= max(lengths) <= 33
    assert min(offsets) < -5 < 0 < max(offsets), "it begins before it, and within it"


def test_frames_and_words_are_left_out_at_random() -> None:
    data, config = spoken(), TrainConfig()
    drawn = [draw_window(data, 5, config, np.random.default_rng(n)) for n in range(200)]
    silent = np.mean([len(one.utterances) == 0 for one in drawn])
    assert 0.2 < silent < 0.45
    gaps = np.concatenate([np.diff(one.frame_seconds) for one in drawn])
    assert 0.05 < (gaps > 1.5).mean() < 0.3
    assert all(len(one.frames) for one in drawn)


def test_a_hard_batch_is_of_neighbours() -> None:
    centres = directions(40, seed=2)
    drawn = np.random.default_rng(0)
    captions = np.concatenate([noisy(one, 10, drawn) for one in centres])
    data = with_whole_captions([video(str(n), captions[n : n + 1]) for n in range(400)], captions)
    for is_hard in (True, False):
        chosen = draw_captions(data, 64, is_hard=is_hard, rng=np.random.default_rng(1))
        assert len(set(chosen.tolist())) == len(chosen) == 64
        groups = len({int(row) // 10 for row in chosen})
        assert groups < 30 if is_hard else groups > 28
    assert sorted(draw_captions(data, 4000, is_hard=True, rng=drawn)) == list(range(400))


def test_what_may_be_right_is_no_wrong_answer() -> None:
    texts = np.eye(4, dtype=np.float32)
    texts[2] = texts[0]  # the same text of another video
    videos = [video(str(n), texts[n : n + 1]) for n in range(4)]
    data = with_whole_captions(videos, texts)
    vectors, scale = torch.from_numpy(texts), torch.tensor(50.0)
    assert contrast(vectors, data, np.arange(4), scale) < 1e-6
    two = TrainingSet(videos=videos, captions=[*data.captions[:3], data.captions[0]], caption_vectors=texts)
    assert contrast(vectors[[0, 0]], two, np.array([0, 3]), scale).item() == 0.0, "two captions of one video"
    wrong = contrast(vectors[[1, 0, 2, 3]], data, np.arange(4), scale)
    assert wrong > 10


def test_the_rate_warms_up_and_goes_to_nothing() -> None:
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01
    assert schedule(0, 1) == 1.0


# ---- judging


def test_judging_finds_videos_and_moments_by_their_segments() -> None:
    drawn, (one, other, third) = np.random.default_rng(0), directions(3)
    film = np.concatenate([noisy(one, 40, drawn), noisy(other, 40, drawn), noisy(one, 40, drawn)])
    videos = [video("film", film), video("still", noisy(third, 20, drawn))]
    data = TrainingSet(
        videos=videos,
        captions=[
            TrainingCaption(video=0, span=TimeSpan(start_seconds=40, end_seconds=80)),
            TrainingCaption(video=1, span=TimeSpan(start_seconds=0, end_seconds=20)),
            TrainingCaption(video=1, span=TimeSpan(start_seconds=0, end_seconds=20)),
        ],
        caption_vectors=np.stack([other, third, one]),
    )
    found = judge(MeanPooling(), data)
    assert found.recall_at_1 == pytest.approx(2 / 3)
    assert (found.caption_count, found.moment_count) == (3, 1)
    assert found.moment_map is not None
    assert found.moment_map > 0.5


def test_spoken_captions_are_judged_without_words() -> None:
    class Listening(MeanPooling):
        heard = 0

        def vectors(self, windows):
            Listening.heard += sum(len(one.utterances) for one in windows)
            return super().vectors(windows)

    judge(Listening(), spoken())
    assert Listening.heard == 0
    told = replace(spoken(), captions=[replace(one, utterance=None) for one in spoken().captions])
    judge(Listening(), told)
    assert Listening.heard > 0


def test_nothing_may_fall() -> None:
    base = Judgement(recall_at_1=0.5, moment_map=0.3, caption_count=9, moment_count=4)
    assert base.is_no_worse_than(base)
    assert not replace(base, recall_at_1=0.49).is_no_worse_than(base)
    assert not replace(base, recall_at_1=1.0, moment_map=0.29).is_no_worse_than(base)
    assert replace(base, moment_map=None).is_no_worse_than(replace(base, moment_map=None))


# ---- runs


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_ends_as_it_would_have(tmp_path: Path) -> None:
    data = ordered_pairs(12)
    whole_run = run(data, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 7:  # three steps after the last checkpoint
            raise Stop

    with pytest.raises(Stop):
        run(data, tmp_path / "stopped", on_step=stop)
    resumed = run(data, tmp_path / "stopped")
    assert resumed == whole_run
    assert (tmp_path / "stopped/history.jsonl").read_text() == (tmp_path / "whole/history.jsonl").read_text()
    one, other = weights(tmp_path / "whole" / CANDIDATE), weights(tmp_path / "stopped" / CANDIDATE)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert run(data, tmp_path / "whole") == whole_run, "nothing is left to do"


def test_a_run_leaves_a_history_and_a_picture(tmp_path: Path) -> None:
    reports = []
    run(ordered_pairs(12), tmp_path, on_report=reports.append)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 4, 8, 12]
    assert [report.step for report in reports] == [4, 8, 12]
    assert rows[0]["loss"] is None
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["validation_loss"]) for row in rows[1:])
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_in_which_nothing_becomes_better_ends_early(tmp_path: Path) -> None:
    data = ordered_pairs(12)
    drawn = np.random.default_rng(0)
    nonsense = replace(data, caption_vectors=data.caption_vectors[drawn.permutation(len(data.captions))])
    run(nonsense, tmp_path, replace(BRIEF, steps=400, report_steps=2, patience=3))
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] < 200
    ranks = [(row["recall_at_1"], -row["validation_loss"]) for row in rows]
    assert max(range(len(ranks)), key=ranks.__getitem__) == len(ranks) - 4, "three without a better one"


def test_a_checkpoint_that_falls_is_not_promoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    better = Judgement(recall_at_1=1.0, moment_map=1.0, caption_count=1, moment_count=1)
    worse = replace(better, moment_map=0.9)

    def judged(pooling: Pooling, data: TrainingSet) -> Judgement:
        return better if isinstance(pooling, MeanPooling) else worse

    monkeypatch.setattr("temporal.fusion.train.judge", judged)
    outcome = run(ordered_pairs(12), tmp_path)
    assert not outcome.is_promoted
    assert not (tmp_path / FUSION).exists()
    assert (tmp_path / CANDIDATE).exists()


@pytest.mark.parametrize("damage", [b"", b"no checkpoint at all"])
def test_a_damaged_checkpoint_has_a_name(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(damage)
    with pytest.raises(WeightsInvalid, match=r"checkpoint\.pt"):
        run(ordered_pairs(12), tmp_path)


def test_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    run(ordered_pairs(12), tmp_path)
    for data, config in ((ordered_pairs(12, seed=4), BRIEF), (ordered_pairs(12), replace(BRIEF, seed=2))):
        with pytest.raises(WeightsInvalid, match="use another --out"):
            run(data, tmp_path, config)


@pytest.mark.slow
def test_order_is_learnt_where_the_mean_cannot_tell(tmp_path: Path) -> None:
    config = replace(BRIEF, steps=200, batch_count=64, report_steps=50)
    assert run(ordered_pairs(150), tmp_path, config).is_promoted
    fusion = Fusion(tmp_path / FUSION, "cpu")
    fusion.load(SIZE, SIZE)
    unseen = ordered_pairs(100, seed=77)

    def share(pooling: Pooling) -> float:
        cut = [segments_of(one, pooling, WindowConfig(), shows_words=True)[0].vector for one in unseen.videos]
        return share_nearest_to_own(np.stack(cut), unseen.caption_vectors)

    assert share(MeanPooling()) == pytest.approx(0.5, abs=0.1)
    assert share(fusion) > 0.95
