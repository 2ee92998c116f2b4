"""`kinodex eval --queries`: a library of plain colours and tones, asked here and on a server."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from serve.cli.main import cli
from serve.indexing.pipeline import index
from serve.search.library import Library
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import running

SETTINGS = Settings(workers=2)
QUERIES: list[dict[str, Any]] = [
    {"kind": "video", "file": "red.mp4", "query": "all red"},
    {"kind": "video", "file": "blue.mp4", "query": "all green"},  # wrong: the green one is before it
    {"kind": "moment", "file": "green.mp4", "query": "red", "start_seconds": 4, "end_seconds": 8, "half": "report"},
    {"kind": "moment", "file": "red.mp4", "query": "red", "start_seconds": 0, "end_seconds": 8},
    {"kind": "moment", "file": "red.mp4", "query": "when does he mention Paris?", "start_seconds": 2, "end_seconds": 3,
     "channel": "speech"},
    {"kind": "moment", "file": "red.mp4", "query": "who mentions London?", "start_seconds": 30, "end_seconds": 45,
     "channel": "speech"},
    {"kind": "moment", "file": "gone.mp4", "query": "yellow", "start_seconds": 0, "end_seconds": 1},
    {"kind": "absent", "query": "when is Reykjavik mentioned?", "channel": "speech"},
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    films = [
        write_scenes(folder / "red.mp4", [("red", 8)], tones=[(440, 2)]),
        write_scenes(folder / "green.mp4", [("green", 4), ("red", 4), ("green", 12)]),
        write_scenes(folder / "blue.mp4", [("blue", 8)]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index(list(map(str, films)), folder / "data", SETTINGS, progress=SilentProgress()))
    return folder / "data"


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(map(json.dumps, QUERIES)))
    return path


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["eval", *map(str, arguments)])


def found(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    figures: dict[str, Any] = json.loads(result.stdout)
    assert 0 <= figures["seconds"]["median"] <= figures["seconds"]["p95"]
    return figures


def test_measures_moments_videos_and_absence(data: Path, queries: Path) -> None:
    result = evaluate("--queries", queries, "--data", data, "--json")
    figures = found(result)
    assert result.stderr == "kinodex: not asked: 1 question about videos not here: gone.mp4\n"
    assert figures["missing"] == {"gone.mp4": 1}
    assert list(figures["moments"]) == ["all", "visual", "speech"]
    speech = figures["moments"]["speech"]["library"]
    assert (speech["n"], speech["R1@0.5"], speech["R1@0.7"], speech["mAP"]) == (2, 50, 50, 50)
    assert {name: part["R1@0.7"] for name, part in speech["by-length"].items()} == {"short": 100, "middle": 0}
    # In the library, red that stands out is before a video that is red throughout; each is the first of its own video.
    visual = figures["moments"]["visual"]
    assert (visual["library"]["R1@0.7"], visual["video"]["R1@0.7"]) == (50, 100)
    assert 70 < visual["video"]["mAP"] < visual["video"]["mIoU"] < 100
    assert (figures["moments"]["all"]["video"]["n"], figures["moments"]["all"]["video"]["R1@0.5"]) == (4, 75)
    videos = figures["videos"]
    assert (videos["n"], videos["R@1"]) == (2, 50)
    assert videos["R@5"] == 100
    assert 1 < videos["median-rank"] <= 2
    assert 50 < videos["nDCG@10"] < 100
    verdicts = figures["verdicts"]["videos"]
    assert (verdicts["present"], verdicts["absent"]) == (2, 2)  # asked of all three videos, and of the two others
    assert verdicts["first"]["n"] == figures["reliability"]["videos"]["first"]["n"] == 4
    assert sum(verdicts["absent-best"].values()) == 2
    assert figures["rejection"]["speech"]["n"] == figures["rejection"]["all"]["n"] == 1
    assert figures["rejection"]["speech"]["recall"] == 100
    assert "visual" not in figures["rejection"]


def test_asks_one_half(data: Path, queries: Path) -> None:
    figures = found(evaluate("--queries", queries, "--data", data, "--half", "report", "--json"))
    assert list(figures["moments"]) == ["all", "visual"]
    assert figures["videos"] == {"n": 0, "R@1": 0, "R@5": 0, "R@10": 0, "median-rank": None, "nDCG@10": 0}
    assert figures["rejection"] == {}
    assert "videos" not in figures["verdicts"]


def test_takes_several_files_and_a_half_of_any_name(data: Path, queries: Path, tmp_path: Path) -> None:
    twice = [{"start_seconds": 0, "end_seconds": 4}, {"start_seconds": 4, "end_seconds": 8}]  # the second is red
    row = {"file": "green.mp4", "query": "red", "spans": twice, "half": "spring", "kind": "scene"}
    (tmp_path / "more.json").write_text(json.dumps({"moments": [row]}))
    both = ["--queries", queries, "--queries", tmp_path / "more.json", "--data", data]
    assert found(evaluate(*both, "--json"))["moments"]["all"]["video"]["n"] == 5
    visual = found(evaluate(*both, "--half", "spring", "--json"))["moments"]["visual"]["video"]
    assert (visual["n"], visual["R1@0.7"]) == (1, 100)
    result = evaluate(*both, "--half", "autumn")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("no question is of half 'autumn': there are report, spring, train\n")


@pytest.mark.slow
def test_a_server_answers_as_the_library_does(data: Path, queries: Path, tmp_path: Path) -> None:
    here = found(evaluate("--queries", queries, "--data", data, "--json"))
    with running(data, SETTINGS) as server:
        pictures = ["--plots", tmp_path / "p", "--sheet", tmp_path / "wrong.png"]
        result = evaluate("--queries", queries, "--server", f"grpc://{server.address}", *pictures, "--json")
    there = found(result)
    assert {**there, "seconds": None} == {**here, "seconds": None}
    drawn = sorted(each.name for each in (tmp_path / "p").iterdir())
    assert drawn == ["lengths.png", "recall.png", "reliability.png", "scores.png"]
    assert (tmp_path / "wrong.png").stat().st_size > 10_000


@pytest.mark.slow
def test_prints_a_table_and_draws(data: Path, queries: Path, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "plots"
    result = evaluate("--queries", queries, "--data", data, "--plots", folder, "--sheet", tmp_path / "wrong.png")
    assert result.exit_code == 0, result.output
    assert f"kinodex: drew 3 wrong answers into {tmp_path / 'wrong.png'}\n" in result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    all_halves = [n for n, row in enumerate(rows) if row[:2] == ["all", "halves"]]
    assert [rows[n + 1][:4] for n in all_halves[:2]] == [
        ["visual", "2", "50.0", "50.0"], ["visual", "2", "100.0", "100.0"],
    ]  # fmt: skip
    assert ["train", "2", "50.0", "100.0", "100.0"] in [row[:5] for row in rows]  # whole videos
    assert rows[-1][:3] == ["an", "answer", "took"]
    drawn = sorted(folder.iterdir())
    assert [each.name for each in drawn] == [
        "curve.png", "lengths.png", "recall.png", "reliability.png", "scores.png",
    ]  # fmt: skip
    for each in (*drawn, tmp_path / "wrong.png"):
        with Image.open(each) as picture:
            picture.load()
            assert picture.width > 700
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20  # something is on it


def test_similarities_are_those_of_the_frames(data: Path) -> None:
    with Library.open(data, SETTINGS) as library:
        [video] = [one for one in library.videos() if one.uri.endswith("green.mp4")]
        seconds, near = library.similarities("find the red part", video)
    assert len(seconds) == len(near) == 20
    inside = (seconds >= 4) & (seconds < 8)
    assert near[inside].min() > near[~inside].max() + 0.5


@pytest.mark.slow
def test_names_the_channel_that_is_missing(
    data: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch, visual=False)
    film = write_scenes(tmp_path / "red.mp4", [("red", 8)], tones=[(440, 2)])
    list(index([str(film)], tmp_path / "data", SETTINGS, progress=SilentProgress()))
    result = evaluate("--queries", queries, "--data", tmp_path / "data", "--plots", tmp_path / "plots")
    assert result.exit_code == 0, result.output
    assert "kinodex: visual search is not available: the figures are without it" in result.stderr
    assert not (tmp_path / "plots" / "curve.png").exists()


def test_questions_about_other_videos_measure_nothing(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(QUERIES[6]))
    result = evaluate("--queries", path, "--data", data)
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        result.stderr == f"kinodex: error: cannot use questions {path}: no question is about a video of this library\n"
    )


@pytest.mark.slow
def test_a_name_that_two_videos_share_is_refused(data: Path, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    films = [write_scenes(tmp_path / each / "red.mp4", [("red", 2)], salt=n) for n, each in enumerate("ab")]
    list(index(list(map(str, films)), tmp_path / "data", SETTINGS, progress=SilentProgress()))
    result = evaluate("--queries", queries, "--data", tmp_path / "data")
    assert result.exit_code == 1
    assert result.stderr.endswith("2 videos are named red.mp4: name them by their ids\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --queries, or --policies and --clips, or --predictions and --truth"),
        (["--predictions", "p"], "--predictions and --truth go together"),
        (["--queries", "q", "--truth", "t"], "--truth does not go with --queries"),
        (["--queries", "q", "--data", "d", "--server", "s:1"], "give --data or --server, not both"),
        (["--predictions", "p", "--truth", "t", "--sheet", "s.png"], "--sheet does not go with --predictions"),
        (["--queries", "q", "--sheet", "s.jpg"], "'s.jpg' does not end in .png"),
        (["--predictions", "p", "--truth", "t", "--plots", "d"], "--plots does not go with --predictions"),
        (["--predictions", "p", "--truth", "t", "--half", "train"], "--half does not go with --predictions"),
        (["--clips", "c", "--queries", "q"], "--policies and --clips go together"),
        (["--policies", "p", "--clips", "c", "--server", "s:1"], "--server does not go with --policies"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], message: str) -> None:
    result = evaluate(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("kinodex: error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
