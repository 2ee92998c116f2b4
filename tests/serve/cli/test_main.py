"""The command as scripts use it: exit status, standard output, and errors in one line on standard error."""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from google.rpc import code_pb2
from PIL import Image

from ingest.config import KafkaConfig
from ingest.sandbox.confinement import WALLS
from kinodex.v1 import library_service_pb2
from serve.api import installation
from serve.cli.main import cli
from serve.codec.messages import moments_response, ready_status, search_response, video_message
from serve.codec.requests import moments_query
from serve.config import IndexConfig
from serve.errors import VideoIsLive, VideoNotFound
from serve.settings import Settings
from serve.values import Answer, Filter, IndexOutcome, IndexProgress, Verdict, Video
from support.fake_server import FakeServer, make_refusal, serving
from support.sample_answers import FakeLibrary, jpeg, moment, video, video_answer
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).resolve().parents[3]
INDEXED = IndexOutcome(
    video_id="3fa9c0ffee123456",
    uri="a.mp4",
    status="indexed",
    duration_seconds=123.45678,
    frames=123,
    segments=15,
    utterances=4,
    warnings=("it ends early",),
)
FAILED = IndexOutcome(video_id=None, uri="b.mp4", status="failed", error="no such file: b.mp4 (check the name)")


class Interrupted:
    """Stands among the outcomes where Ctrl-C comes."""


class FakePipeline(types.ModuleType):
    """Plays serve.indexing.pipeline: yields what it is given."""

    outcomes: Sequence[Any] = (INDEXED,)
    left_out: Mapping[str, int] = {}
    called: tuple[Any, ...] = ()

    def index(
        self, inputs: Sequence[str], directory: Path, settings: object, *, collection: str, progress: IndexProgress
    ) -> Iterator[IndexOutcome]:
        self.called = (inputs, directory, collection)
        progress.note("visual encoder: mini (built in)")
        progress.expect(len(self.outcomes))
        progress.leave_out(self.left_out)
        for outcome in self.outcomes:
            if isinstance(outcome, Interrupted):
                raise KeyboardInterrupt
            if isinstance(outcome, Exception):
                raise outcome
            progress.start(outcome.uri)
            progress.advance(outcome.uri, 1.0, None)
            progress.finish(outcome.uri)
            yield outcome

    def reindex(self, directory: Path, settings: object, *, progress: IndexProgress) -> Iterator[IndexOutcome]:
        return self.index((), directory, settings, collection="", progress=progress)

    def delete(
        self, directory: Path, video_ids: Sequence[str], *, collection: str | None, kafka: KafkaConfig, is_local: bool
    ) -> list[Video]:
        if "77" in video_ids:
            raise VideoNotFound("77")
        if "cam" in video_ids and not kafka.servers and not is_local:
            raise VideoIsLive("cam")
        return [video(video_id=f"{video_id}-whole") for video_id in video_ids]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("KINODEX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type[FakeLibrary]:
    """A library whose answer the test sets."""

    class Library(FakeLibrary):
        answer = Answer(moments=(moment(),), videos=(video_answer(moment()),))

    module = types.ModuleType("serve.search.library")
    module.Library = Library  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "serve.search.library", module)
    return Library


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    module = FakePipeline("serve.indexing.pipeline")
    monkeypatch.setitem(sys.modules, "serve.indexing.pipeline", module)
    monkeypatch.setattr("serve.indexing.pipeline", module, raising=False)
    return module


def kinodex(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def assert_one_error_line(result: Result, *parts: str) -> None:
    assert result.stdout == ""
    assert result.stderr.startswith("kinodex: error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


# ------------------------------------------------------------------ usage
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["serch", "x"], ["'serch'", "search"]),
        (["search"], ["QUERY", "--image", "kinodex search --help"]),
        (["search", "  "], ["QUERY"]),
        (["moments"], ["QUERY"]),
        (["search", "x", "--limit", "0"], ["--limit"]),
        (["search", "x", "--limit", "many"], ["--limit"]),
        (["search", "x", "--limt", "3"], ["--limt", "--limit"]),
        (["search", "x", "--channel", "smell"], ["--channel", "visual"]),
        (["search", "x", "--sheet", "a.jpg"], ["--sheet", ".png"]),
        (["search", "x", "--video", "3fa9"], ["--video"]),
        (["search", "x", "--server", "localhost:1", "--data", "d"], ["--server", "--data"]),
        (["index"], ["PATH|DIR|URL"]),
        (["show"], ["ID"]),
        (["transcript", "3fa9", "--format", "doc"], ["--format", "srt"]),
        (["completion", "csh"], ["bash"]),
        (["--nonsense"], ["--nonsense"]),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(arguments: list[str], parts: list[str]) -> None:
    result = kinodex(*arguments)
    assert result.exit_code == 2
    assert_one_error_line(result, *parts)


def test_no_command_shows_the_help() -> None:
    result = kinodex()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


@pytest.mark.parametrize("command", [[], *([name] for name in cli.commands)])
def test_every_help_answers(command: list[str]) -> None:
    result = kinodex(*command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: kinodex")


def test_commands_come_in_the_order_of_their_use() -> None:
    assert list(cli.commands)[:3] == ["index", "search", "moments"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = kinodex("completion", shell)
    assert result.exit_code == 0
    assert "_KINODEX_COMPLETE" in result.stdout


# ------------------------------------------------------------------ failures
@pytest.mark.parametrize(
    "arguments", [["search", "x"], ["list"], ["show", "3fa9"], ["search", "x", "--json"], ["transcript", "3fa9"]]
)
def test_an_empty_data_directory_is_one_line_and_exit_1(library: type[FakeLibrary], arguments: list[str]) -> None:
    result = kinodex(*arguments, "--data", "empty")
    assert result.exit_code == 1
    assert_one_error_line(result, "no library in empty", "kinodex index")


def test_a_wrong_setting_is_one_line_and_exit_1(library: type[FakeLibrary], tmp_path: Path) -> None:
    (tmp_path / "k.toml").write_text("[visual]\nmodle = 'x'")
    result = kinodex("list", "--config", "k.toml")
    assert result.exit_code == 1
    assert_one_error_line(result, "visual.modle", "k.toml", "visual.model")


def test_an_unknown_video_is_one_line_and_exit_1(library: type[FakeLibrary]) -> None:
    for arguments in (["show", "99"], ["transcript", "99"], ["moments", "x", "--video", "99"]):
        result = kinodex(*arguments)
        assert result.exit_code == 1
        assert_one_error_line(result, "no video 99", "kinodex list")


def test_an_unexpected_failure_is_one_line_that_names_debug(
    library: type[FakeLibrary], monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(self: FakeLibrary, query: object) -> Answer:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(library, "search", search)
    result = kinodex("search", "x")
    assert result.exit_code == 1
    assert_one_error_line(result, "internal error", "division by zero", "--debug")
    for arguments in (["--debug", "search", "x"], ["search", "x", "--debug"]):
        result = kinodex(*arguments)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("kinodex: error: internal error: ZeroDivisionError")


def test_control_characters_in_an_error_do_not_reach_the_terminal(library: type[FakeLibrary]) -> None:
    result = kinodex("search", "--image", "a\x1b[31m\nb.jpg")
    assert result.exit_code == 1
    assert_one_error_line(result, "no such file: a�[31m b.jpg")


# ------------------------------------------------------------------ index
def test_index_json_is_one_object_a_line_and_nothing_else(pipeline: FakePipeline) -> None:
    pipeline.outcomes = (INDEXED, FAILED)
    result = kinodex("index", "a.mp4", "b.mp4", "--json", "--data", "d", "--collection", "talks")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["indexed", "failed"]
    assert lines[0]["duration_seconds"] == 123.457
    assert [line["warnings"] for line in lines] == [["it ends early"], []]
    assert lines[1]["error"] == "no such file: b.mp4 (check the name)"
    assert pipeline.called == (("a.mp4", "b.mp4"), Path("d"), "talks")


def test_index_prints_a_line_for_each_video_failures_on_stderr_and_a_summary(pipeline: FakePipeline) -> None:
    pipeline.outcomes = (INDEXED, FAILED)
    result = kinodex("index", "a.mp4", "b.mp4")
    assert result.exit_code == 1
    first, summary = result.stdout.splitlines()
    assert first.startswith("indexed    3fa9c0ffee123456     2:03  a.mp4")
    assert summary.startswith("1 indexed, 1 failed, 1 with warnings: 2:03 of video in 0:00 (")
    assert result.stderr.splitlines() == [
        "kinodex: visual encoder: mini (built in)",
        "kinodex: warning: a.mp4: it ends early",
        "kinodex: error: no such file: b.mp4 (check the name)",
    ]


def test_the_same_warning_of_many_videos_is_printed_of_a_few_and_counted(pipeline: FakePipeline) -> None:
    silent = [dataclasses.replace(INDEXED, uri=f"{n}.mp4", warnings=("its sound is silent",)) for n in range(9)]
    pipeline.outcomes = (*silent, INDEXED)
    result = kinodex("index", "films")
    assert result.stdout.splitlines()[-1].startswith("10 indexed, 10 with warnings: ")
    assert result.stderr.splitlines()[1:] == [
        *(f"kinodex: warning: {n}.mp4: its sound is silent" for n in range(4)),
        "kinodex: warning: 4.mp4: its sound is silent (further files with this warning are only counted)",
        "kinodex: warning: a.mp4: it ends early",
    ]


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_index_counts_the_files_of_folders_that_are_no_media(pipeline: FakePipeline, as_json: list[str]) -> None:
    pipeline.left_out = {".txt": 3, ".jpg": 4, "": 1, ".ts": 2, ".md": 1, ".b": 1, ".bidi\u202etxt": 1}
    result = kinodex("index", "folder", *as_json)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == (
        "kinodex: 13 other files left out: 4 .jpg, 3 .txt, 2 .ts, 1 without a suffix, 1 .md, 2 of other kinds"
    )
    if as_json:
        assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["indexed"]
    else:
        assert result.stdout.splitlines()[-1].startswith("1 indexed, 1 with warnings, 13 left out: 2:03 of video in")


def test_index_of_good_inputs_is_exit_0(pipeline: FakePipeline) -> None:
    assert kinodex("index", "a.mp4").exit_code == 0
    assert kinodex("reindex").exit_code == 0


def test_ctrl_c_prints_the_indexed_count_and_exits_with_130(pipeline: FakePipeline) -> None:
    pipeline.outcomes = (INDEXED, FAILED, Interrupted(), INDEXED)
    result = kinodex("index", "a.mp4", "b.mp4")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "kinodex: stopped: 1 of 4 indexed; run the same command again to continue"


def test_without_the_option_the_data_directory_comes_from_the_variable(
    pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinodex("index", "a.mp4")
    assert pipeline.called[1] == Path("kinodex-data")
    monkeypatch.setenv("KINODEX_DATA", "elsewhere")
    kinodex("index", "a.mp4")
    assert pipeline.called[1] == Path("elsewhere")


def test_delete_prints_the_deleted_videos(pipeline: FakePipeline) -> None:
    result = kinodex("delete", "3fa9", "55")
    assert (result.exit_code, result.stdout) == (0, "deleted 3fa9-whole\ndeleted 55-whole\n")
    result = kinodex("delete", "cam")
    assert (result.exit_code, "--kafka SERVERS" in result.stderr) == (1, True)
    assert kinodex("delete", "cam", "--kafka", "broker:9092").stdout == "deleted cam-whole\n"
    assert kinodex("delete", "cam", "--local").stdout == "deleted cam-whole\n"
    assert "must be host:port" in kinodex("delete", "cam", "--kafka", "broker").stderr
    result = kinodex("delete", "3fa9", "77")
    assert result.exit_code == 1
    assert_one_error_line(result, "no video 77")


# ------------------------------------------------------------------ questions
def test_search_json_is_one_document_and_nothing_else(library: type[FakeLibrary]) -> None:
    result = kinodex("search", "Paris", "--json", "--limit", "3", "--channel", "speech", "--collection", "talks")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert list(document) == ["query", "results"]
    assert document["query"] == "Paris"
    assert result.stderr == ""
    asked = library.asked
    assert asked is not None
    assert (asked.text, asked.limit, asked.channel) == ("Paris", 3, "speech")
    assert asked.filter == Filter(collections=("talks",))


def test_moments_json_is_one_document_and_nothing_else(library: type[FakeLibrary]) -> None:
    result = kinodex("moments", "Paris", "--json", "--video", "3fa9")
    assert list(json.loads(result.stdout)) == ["query", "moments"]
    assert library.asked is not None
    assert library.asked.filter == Filter(video_ids=("3fa9c0ffee123456",))


def test_a_picture_can_be_the_question(library: type[FakeLibrary], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    result = kinodex("search", "--image", "photo.jpg", "--json")
    assert json.loads(result.stdout)["query"] == "photo.jpg"
    assert library.asked is not None
    assert (library.asked.image, library.asked.image_name) == (jpeg(), "photo.jpg")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("absent.jpg", ["no such file", "absent.jpg"]),
        ("empty.jpg", ["empty", "empty.jpg"]),
        ("large.jpg", ["larger than 128 MiB", "large.jpg"]),
        ("folder", ["folder", "directory"]),
    ],
)
def test_a_picture_that_cannot_be_read_is_one_line_and_exit_1(
    library: type[FakeLibrary], tmp_path: Path, name: str, parts: list[str]
) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder").mkdir()
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate((128 << 20) + 1)
    result = kinodex("search", "--image", name)
    assert result.exit_code == 1
    assert_one_error_line(result, *parts)
    assert library.asked is None


def test_a_pipe_gets_a_line_for_each_moment(library: type[FakeLibrary]) -> None:
    result = kinodex("moments", "Paris")
    assert result.stdout.count("\n") == 1
    assert "a talk [part 1].mp4" in result.stdout


def test_a_missing_channel_is_named_on_stderr(library: type[FakeLibrary]) -> None:
    library.answer = Answer(moments=(moment(verdict=Verdict.WEAK),), degraded_channels=("visual",))
    result = kinodex("moments", "x", "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)["moments"]) == 1
    assert result.stderr.startswith("kinodex: visual search is not available")


def test_a_server_without_kafka_is_named_on_stderr(library: type[FakeLibrary]) -> None:
    library.answer = Answer(moments=(moment(),), is_live_behind=True)
    result = kinodex("moments", "x", "--json")
    assert len(json.loads(result.stdout)["moments"]) == 1
    assert result.stderr.startswith("kinodex: the server does not reach Kafka")


@pytest.mark.parametrize("command", ["search", "moments"])
def test_a_sheet_is_drawn(library: type[FakeLibrary], command: str, tmp_path: Path) -> None:
    result = kinodex(command, "Paris", "--sheet", "answers.png", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["query"] == "Paris"
    with Image.open(tmp_path / "answers.png") as sheet:
        assert sheet.format == "PNG"


def test_a_sheet_that_cannot_be_written_is_refused_before_any_work(library: type[FakeLibrary]) -> None:
    result = kinodex("search", "x", "--sheet", "absent/answers.png")
    assert result.exit_code == 1
    assert_one_error_line(result, "No such file or directory: absent/answers.png")
    assert library.asked is None


# ------------------------------------------------------------------ a server instead of a library
@pytest.fixture
def server(library: type[FakeLibrary]) -> Iterator[FakeServer]:
    """A server that answers as the library does."""

    def frame(asked: library_service_pb2.GetFrameRequest) -> library_service_pb2.GetFrameResponse:
        return library_service_pb2.GetFrameResponse(jpeg=jpeg(), offset=asked.offset)

    found = library_service_pb2.GetVideoResponse(video=video_message(ready_status(video())))
    with serving(
        {
            "SearchVideos": [lambda _: search_response(library.answer)],
            "SearchMoments": [lambda _: moments_response(library.answer)],
            "GetVideo": [found],
            "GetFrame": [frame],
        }
    ) as fake:
        yield fake


ODD = moment(
    uri="/videos/caf\u00e9 \udcff.mp4",
    start_seconds=math.nextafter(16.0005, 0),
    end_seconds=math.nextafter(24.0, 25),
    score=-0.0,
    visual_score=-1e-9,
    best_frame_seconds=None,
    verdict=Verdict.WEAK,
)


@pytest.mark.parametrize("command", ["search", "moments"])
@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(moments=(moment(), ODD), videos=(video_answer(moment(), ODD), video_answer(ODD))),
        Answer(),
    ],
)
def test_a_server_prints_the_same_bytes_as_a_library(
    library: type[FakeLibrary], server: FakeServer, command: str, as_json: list[str], answer: Answer
) -> None:
    library.answer = answer
    here = kinodex(command, "Paris", *as_json)
    there = kinodex(command, "Paris", *as_json, "--server", server.address)
    assert (there.exit_code, there.stderr) == (0, "")
    assert there.stdout_bytes == here.stdout_bytes


def test_a_server_gets_every_option_that_a_library_gets(
    library: type[FakeLibrary], server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    arguments = ["moments", "Paris", "--image", "photo.jpg", "--limit", "3", "--channel", "speech", "--json"]
    arguments += ["--collection", "talks", "--video", "3fa9"]
    result = kinodex(*arguments, "--server", f"grpc://{server.address}")
    assert (result.exit_code, result.stderr) == (0, "")
    [request] = server.requests["SearchMoments"]
    kinodex(*arguments)
    assert library.asked is not None
    assert moments_query(request) == dataclasses.replace(library.asked, image_name="image")
    [looked_up] = server.requests["GetVideo"]
    assert (looked_up.video_id, looked_up.collection) == ("3fa9", "talks")


@pytest.mark.slow
def test_a_server_gets_a_large_picture_smaller(library: type[FakeLibrary], server: FakeServer, tmp_path: Path) -> None:
    photo = jpeg() + bytes(8 << 20)
    (tmp_path / "photo.jpg").write_bytes(photo)
    result = kinodex("moments", "--image", "photo.jpg", "--server", server.address)
    assert (result.exit_code, result.stderr) == (0, "")
    [request] = server.requests["SearchMoments"]
    with Image.open(io.BytesIO(request.query.image)) as sent, Image.open(io.BytesIO(photo)) as original:
        assert (sent.format, sent.size) == ("JPEG", original.size)  # it is small but for the bytes behind it
    kinodex("moments", "--image", "photo.jpg")
    assert library.asked is not None
    assert library.asked.image == photo
    (tmp_path / "photo.jpg").write_bytes(bytes(9 << 20))
    assert_one_error_line(kinodex("search", "--image", "photo.jpg", "--server", server.address), "not a media file")


@pytest.mark.parametrize("command", ["search", "moments"])
def test_a_sheet_is_drawn_with_the_servers_pictures(
    library: type[FakeLibrary], server: FakeServer, command: str, tmp_path: Path
) -> None:
    assert kinodex(command, "Paris", "--sheet", "here.png").exit_code == 0
    assert kinodex(command, "Paris", "--sheet", "there.png", "--server", server.address).exit_code == 0
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()
    [request] = server.requests["GetFrame"]
    assert (request.video_id, request.collection, request.offset.seconds) == ("3fa9c0ffee123456", "default", 70)
    server.answers["GetFrame"] = [make_refusal(code_pb2.NOT_FOUND, "no pictures", "FRAME_NOT_FOUND")]
    assert kinodex(command, "Paris", "--sheet", "bare.png", "--server", server.address).exit_code == 0


def test_a_channel_that_the_server_lacks_is_named_on_stderr(library: type[FakeLibrary], server: FakeServer) -> None:
    library.answer = Answer(moments=(moment(),), degraded_channels=("visual",))
    result = kinodex("moments", "x", "--server", server.address)
    assert result.exit_code == 0
    assert result.stderr.startswith("kinodex: visual search is not available")
    assert "on the server" in result.stderr


def test_the_clients_settings_come_from_file_and_environment(
    library: type[FakeLibrary], server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "k.toml").write_text("[client]\ntoken = 'secret'")
    arguments = ["moments", "x", "--server", server.address]
    assert kinodex(*arguments, "--config", "k.toml").exit_code == 0
    monkeypatch.setenv("KINODEX_CONFIG", "k.toml")
    assert kinodex(*arguments).exit_code == 0
    monkeypatch.setenv("KINODEX_CLIENT_TOKEN", "other")
    assert kinodex(*arguments).exit_code == 0
    assert [headers["authorization"] for headers in server.headers] == [
        "Bearer secret",
        "Bearer secret",
        "Bearer other",
    ]


def test_a_refusal_of_the_server_is_one_line_and_exit_1(server: FakeServer) -> None:
    server.answers["GetVideo"] = [make_refusal(code_pb2.NOT_FOUND, "no video 99", "VIDEO_NOT_FOUND")]
    result = kinodex("moments", "x", "--video", "99", "--server", server.address)
    assert result.exit_code == 1
    assert_one_error_line(result, "no video 99")


@pytest.mark.parametrize(
    ("address", "part"), [("nonsense", "HOST:PORT"), ("http://a:1", "HOST:PORT"), ("grpc://a:1", "token")]
)
def test_an_unreachable_server_is_one_line_and_exit_1(monkeypatch: pytest.MonkeyPatch, address: str, part: str) -> None:
    monkeypatch.setenv("KINODEX_CLIENT_TOKEN", "secret")
    result = kinodex("search", "x", "--server", address)
    assert result.exit_code == 1
    assert_one_error_line(result, part, address)


# ------------------------------------------------------------------ the library's content
def test_list_and_show_speak_json(library: type[FakeLibrary]) -> None:
    lines = kinodex("list", "--json").stdout.splitlines()
    assert [json.loads(line)["video_id"] for line in lines] == ["3fa9c0ffee123456", "77770000"]
    assert json.loads(kinodex("show", "3fa9", "--json").stdout)["video_codec"] == "h264"


@pytest.mark.parametrize(
    ("wanted", "start"),
    [
        ("text", "[0:01] Hello & welcome to the show.\n"),
        ("srt", "1\n00:00:01,000 --> 00:00:03,500\nHello & welcome to the show.\n\n2\n"),
        ("vtt", "WEBVTT\n\n00:00:01.000 --> 00:00:03.500\nHello &amp; welcome to the show.\n"),
        ("json", '{"video_id": "3fa9c0ffee123456"'),
    ],
)
def test_transcript_prints_each_format(library: type[FakeLibrary], wanted: str, start: str) -> None:
    assert kinodex("transcript", "3fa9", "--format", wanted).stdout.startswith(start)


# ------------------------------------------------------------------ as a process
def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )


def test_the_command_starts_without_the_heavy_libraries() -> None:
    code = "import sys, serve.cli; print([m for m in ('torch', 'av', 'faiss', 'numpy', 'PIL') if m in sys.modules])"
    assert run(code).stdout == "[]\n"


def test_a_server_is_asked_without_the_heavy_libraries(server: FakeServer) -> None:
    code = f"""
import sys
from serve.cli import doctor
from serve.cli.main import cli
from serve.config import IndexConfig
sys.argv = ["kinodex", "moments", "Paris", "--server", "{server.address}", "--json"]
try:
    cli.main()
finally:
    heavy = ("torch", "av", "faiss", "PIL", "tokenizers", "sentence_transformers", "open_clip", "whisper")
    print([module for module in heavy if module in sys.modules], file=sys.stderr)
"""
    done = run(code)
    assert (json.loads(done.stdout)["query"], done.stderr) == ("Paris", "[]\n")


def test_a_reader_that_stops_early_causes_no_error_message() -> None:
    code = """
import os, sys, types
sys.path.insert(0, "tests")
from support.sample_answers import FakeLibrary, video
class Library(FakeLibrary):
    def videos(self, collection=None):
        return [video()] * 20000
sys.modules["serve.search.library"] = types.ModuleType("serve.search.library")
sys.modules["serve.search.library"].Library = Library
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
sys.argv = ["kinodex", "list", "--json"]
from serve.cli.main import main
main()
"""
    done = run(code)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
def test_doctor_finds_what_this_machine_has() -> None:
    result = kinodex("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert findings["decoding"]["state"] == "ok"
    assert "libavcodec" in findings["decoding"]["detail"]
    assert findings["sandbox"]["state"] in ("ok", "note")
    assert findings["library"]["state"] == "note"
    assert result.exit_code == (1 if any(each["state"] == "missing" for each in findings.values()) else 0)


@pytest.mark.parametrize(("spec", "state", "remedy"), [(object(), "ok", ""), (None, "missing", "kinodex[milvus]")])
def test_doctor_names_the_vector_index(spec: object, state: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.api.installation.importlib.util.find_spec", lambda name: spec)
    finding = installation.check_index(Settings(index=IndexConfig(milvus_uri="http://milvus.example:19530")))
    assert finding.state == state
    assert remedy in finding.remedy
    assert "http://milvus.example:19530" in finding.detail


@pytest.mark.parametrize(
    ("missing", "state", "detail"),
    [
        ({}, "ok", "no capabilities, no new privileges, Landlock, seccomp"),
        ({"Landlock": "Function not implemented"}, "note", "seccomp; missing: Landlock (Function not implemented)"),
        (dict.fromkeys(WALLS, "no"), "note", "decoding has limits only; missing: another user than root (no)"),
    ],
)
def test_doctor_names_the_walls_that_are_missing(
    missing: dict[str, str], state: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.sandbox.pool.DecodePool.missing_walls", lambda pool: missing)
    finding = installation.check_sandbox()
    assert finding.state == state
    assert detail in finding.detail


def test_doctor_reports_a_wrong_setting_and_checks_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = [f"check_{check}" for check in ("packages", "decoding", "sandbox", "device", "index")]
    for check in (*moved, "_check_visual", "_check_speech", "_check_sentence", "_check_library"):
        monkeypatch.setattr(f"serve.cli.doctor.{check}", lambda *_: (_ for _ in ()).throw(ImportError("no module x")))
    monkeypatch.setenv("KINODEX_WORKERS", "none")
    result = kinodex("doctor")
    assert result.exit_code == 1
    assert "missing  settings" in result.stdout
    assert result.stdout.count("-> pip install kinodex") == 9
