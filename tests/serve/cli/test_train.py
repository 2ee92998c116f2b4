"""`kinodex train` as its users run it, and a library that is indexed with the trained fusion."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from encoders.values import FrameEmbeddings
from serve.catalog.catalog import Catalog, NewVideo
from serve.cli.main import cli
from serve.evaluate.training_data import gather
from support import ROOT, TESTS
from support.fakes import COLOURS, ColourEncoder, WordSumEncoder, use_fakes, write_scenes
from support.hand_made import MEDIA, SPACE, utterance
from support.waiting import HANG_SECONDS, wait_until
from temporal.fusion.fusion import load_checkpoint

NAMES = list(COLOURS)
RUN = """
import sys, pytest
from support.fakes import use_fakes
from serve.cli.main import cli
use_fakes(pytest.MonkeyPatch())
cli.main(sys.argv[1:])
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve videos of one colour and then another, with words, and captions in the metadata."""
    use_fakes(monkeypatch)
    with Catalog.open_writer(tmp_path / "library") as catalog:
        catalog.set_space(SPACE)
        for number in range(12):
            first, second = NAMES[number % 4], NAMES[(number // 4 + number + 1) % 4]
            put(catalog, f"clip{number}", first, second, {"caption": f"{first} then {second}"})
    return tmp_path / "library"


def put(catalog: Catalog, name: str, first: str, second: str, metadata: dict[str, str]) -> None:
    vectors = ColourEncoder().encode_texts([first] * 10 + [second] * 10)
    said = [utterance(f"now we see something {colour}", at) for colour, at in ((first, 2.0), (second, 12.0))]
    row = catalog.begin(
        NewVideo(
            video_id=name, collection="default", uri=f"file:///films/{name}.mp4", content_sha256=name,
            fingerprint=SPACE.fingerprint, metadata=metadata,
        )
    )  # fmt: skip
    frames = FrameEmbeddings(epochs=np.zeros(20, np.int32), pts_seconds=np.arange(20.0), vectors=vectors)
    catalog.add_frames(row, frames, [b"jpeg"] * 20)
    catalog.add_utterances(row, said, WordSumEncoder().encode([one.text for one in said]))
    catalog.finish(row, media=MEDIA, duration_seconds=20.0, warnings=())


def train(library: Path, out: Path, *options: str, steps: int = 3) -> Result:
    return CliRunner().invoke(
        cli, ["train", "--data", str(library), "--out", str(out), "--steps", str(steps), "--batch", "8", *options]
    )


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_trains_on_the_captions_of_the_metadata(library: Path, tmp_path: Path) -> None:
    result = train(library, tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert '12 captions of 12 videos, from metadata "caption"' in result.stderr
    assert "step 3: loss" in result.stderr
    first, second, last, *rest = result.stdout.splitlines()
    assert first.startswith("held-out videos, 2 captions: recall@1 ")
    assert second == "moments were not measured: no held-out caption describes a part of a video"
    assert last.startswith(("promoted: ", "not promoted: "))
    assert len(rest) == last.startswith("promoted")
    model = load_checkpoint(tmp_path / "out" / "candidate.safetensors")
    assert (model.config.frame_size, model.config.utterance_size) == (4, 256)
    assert (tmp_path / "out" / "training.png").exists()


@pytest.mark.slow
def test_trains_on_a_file_of_captions(library: Path, tmp_path: Path) -> None:
    rows = [
        {"video": f"clip{n}.mp4", "caption": "something red", "start_seconds": 0, "end_seconds": 9.5} for n in range(11)
    ]
    late = {"video": "clip1", "caption": "late", "start_seconds": 20, "end_seconds": 30}
    others = [{"video": "clip11", "caption": "blue"}, {"video": "elsewhere", "caption": "red"}, late]
    captions = lines(tmp_path / "c.jsonl", *rows, "", *others)
    result = train(library, tmp_path / "out", "--captions", str(captions), "--json")
    assert result.exit_code == 0, result.stderr
    assert f"12 captions of 12 videos, from {captions}; 2 left out: not of these videos" in result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["fusion"]["caption_count"] == outcome["mean"]["caption_count"] == 2
    assert Path(outcome["checkpoint"]).exists()
    assert outcome["is_promoted"] == outcome["checkpoint"].endswith("/fusion.safetensors")


def test_without_captions_it_trains_on_the_utterances(library: Path, tmp_path: Path) -> None:
    with Catalog.open_writer(tmp_path / "bare") as catalog:
        catalog.set_space(SPACE)
        for n in range(6):
            put(catalog, f"bare{n}", "red", "blue", {})
    gathered = gather([tmp_path / "bare"], None, tmp_path / "out", settings(), lambda *_: None)
    assert gathered.source == "speech"
    assert [(one.video, one.utterance, one.span.start_seconds) for one in gathered.data.captions[:3]] == [
        (0, 0, 2.0), (0, 1, 12.0), (1, 0, 2.0),
    ]  # fmt: skip
    two = gather([tmp_path / "bare", library], None, tmp_path / "out2", settings(), lambda *_: None)
    assert len(two.data.videos) == 18
    assert two.source == 'metadata "caption"', "captions of some are better than the speech of all"


def settings():
    from serve.settings import Settings

    return Settings()


def test_captions_are_encoded_once(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gather([library], None, tmp_path / "out", settings(), lambda *_: None)

    def fail(self: ColourEncoder, texts: list[str]) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(ColourEncoder, "encode_texts", fail)
    again = gather([library], None, tmp_path / "out", settings(), lambda *_: None)
    assert again.data.fingerprint == first.data.fingerprint
    (tmp_path / "out" / "captions.npz").write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="encoded again"):
        gather([library], None, tmp_path / "out", settings(), lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the file is empty"),
        (["no JSON"], "line 1 is not"),
        ([{"video": "clip1"}], "line 1 is not"),
        ([{"video": "clip1", "caption": "a"}, {"video": "clip1", "caption": " "}], "line 2: video and caption"),
        ([{"video": 1, "caption": "a"}], "line 1: video and caption"),
        ([{"video": "clip1", "caption": "a", "start_seconds": 3}], "line 1 is not"),
        (
            [{"video": "clip1", "caption": "a", "start_seconds": 3, "end_seconds": 3}],
            "0 <= start_seconds < end_seconds",
        ),
        ([{"video": "clip1", "caption": "a", "start_seconds": 3, "end_seconds": float("nan")}], "0 <= start_seconds"),
        ([{"video": "elsewhere", "caption": "a"}], "has no caption of a video with pictures"),
        ([{"video": "clip1", "caption": "a"}], "1 videos with pictures have captions, but training needs at least 4"),
    ],
)
def test_bad_captions_are_one_line(library: Path, tmp_path: Path, rows: list[object], message: str) -> None:
    result = train(library, tmp_path / "out", "--captions", str(lines(tmp_path / "c.jsonl", *rows)))
    assert result.exit_code == 1
    assert message in str(result.exception or result.stderr) or message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_library_or_file_is_one_line(library: Path, tmp_path: Path) -> None:
    result = train(tmp_path / "nowhere", tmp_path / "out")
    assert result.exit_code == 1
    result = train(library, tmp_path / "out", "--captions", str(tmp_path / "missing.jsonl"))
    assert "cannot read captions" in result.stderr
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in train(library, tmp_path / "out", "--captions", str(tmp_path / "binary")).stderr


def test_a_caption_whose_name_two_videos_share_describes_both(library: Path) -> None:
    captions = lines(library.parent / "c.jsonl", {"video": "clip1.mp4", "caption": "twice"})
    gathered = gather([library, library], captions, library.parent / "out", settings(), lambda *_: None)
    assert [one.video for one in gathered.data.captions] == [1, 13]


def processes(*command: str, **others: object) -> subprocess.Popen[str]:
    roots = [str(TESTS), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*roots, *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_run(library: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", str(library), "--steps", "70", "--batch", "8", "--json", "--out"]
    assert CliRunner().invoke(cli, [*arguments, str(tmp_path / "calm")]).exit_code == 0
    killed = processes(sys.executable, "-c", RUN, *arguments, str(tmp_path / "killed"))
    wait_until(lambda: (tmp_path / "killed" / "checkpoint.pt").exists() or killed.poll() is not None)
    killed.send_signal(signal.SIGKILL)
    _, stderr = killed.communicate()
    assert killed.returncode in (-signal.SIGKILL, 0), stderr  # 0: it ended before this process saw the checkpoint
    assert CliRunner().invoke(cli, [*arguments, str(tmp_path / "killed")]).exit_code == 0
    one, other = (
        load_checkpoint(tmp_path / name / "candidate.safetensors").state_dict() for name in ("calm", "killed")
    )
    assert all(np.allclose(one[name], other[name], atol=1e-5) for name in one)


@pytest.mark.slow
def test_processes_of_torchrun_train_one_model(library: Path, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(RUN)
    arguments = ["train", "--data", str(library), "--steps", "4", "--batch", "8", "--json", "--device", "cpu", "--out"]
    two = processes(
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone",
        str(tmp_path / "run.py"), *arguments, str(tmp_path / "two"),
    )  # fmt: skip
    stdout, stderr = two.communicate(timeout=HANG_SECONDS)
    assert two.returncode == 0, stderr
    outcome = json.loads(stdout.strip())
    assert len(stdout.strip().splitlines()) == 1, "one process tells"
    assert Path(outcome["checkpoint"]).exists()
    assert stderr.count("12 captions of 12 videos") == 1


@pytest.mark.slow
def test_a_library_is_indexed_with_a_trained_fusion(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(library, tmp_path / "out")
    film = tmp_path / "film.mp4"
    write_scenes(film, [("red", 3), ("blue", 3)])
    runner, data = CliRunner(), str(tmp_path / "fused")
    checkpoint = str(tmp_path / "out" / "candidate.safetensors")
    result = runner.invoke(cli, ["index", str(film), "--data", data], env={"KINODEX_WINDOW_FUSION": checkpoint})
    assert result.exit_code == 0, result.stderr
    with Catalog.open_reader(Path(data)) as catalog:
        space = catalog.space()
        assert space is not None
        assert space.window.startswith("16s/8s fusion ")
    asked = ["moments", "red", "--data", data, "--json"]
    found = runner.invoke(cli, asked, env={"KINODEX_WINDOW_FUSION": checkpoint})
    assert json.loads(found.stdout)["moments"]
    assert "16s/8s mean" in runner.invoke(cli, asked).stderr, "of another encoder space, which it names"
    assert runner.invoke(cli, ["reindex", "--data", data]).exit_code == 0
    assert json.loads(runner.invoke(cli, asked).stdout)["moments"]
    lost = runner.invoke(cli, asked, env={"KINODEX_WINDOW_FUSION": str(tmp_path / "lost")})
    assert "no weights for" in lost.stderr


def test_a_checkpoint_of_other_encoders_is_refused_before_any_work(library: Path, tmp_path: Path) -> None:
    from temporal.config import FusionConfig
    from temporal.fusion.fusion import save_checkpoint
    from temporal.fusion.model import FusionTransformer

    save_checkpoint(FusionTransformer(FusionConfig(frame_size=8, utterance_size=8)), tmp_path / "other")
    film = tmp_path / "film.mp4"
    write_scenes(film, [("red", 3)])
    result = CliRunner().invoke(
        cli, ["index", str(film), "--data", str(tmp_path / "d")], env={"KINODEX_WINDOW_FUSION": str(tmp_path / "other")}
    )
    assert result.exit_code == 1
    assert "trained for vectors of (8, 8) numbers, and these encoders give (4, 256)" in result.stderr
