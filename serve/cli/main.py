"""The one command, `kinodex` (design §12: scripts depend on it).

Everything heavy is imported inside the command that needs it, so that `--help` answers at once. Errors come out as
one line on standard error; exit status 2 says that the command line is wrong, 1 that the work failed.
"""

import contextlib
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from serve.cli.eval import evaluate
from serve.cli.failures import OneLineGroup, debug_option
from serve.cli.kafka import publish, topics, worker
from serve.cli.moderation import events, policies, rescore
from serve.cli.options import json_option, library_options, load, question_options
from serve.cli.serve import serve
from serve.cli.tokens import token
from serve.cli.train import train

if TYPE_CHECKING:
    from serve.cli.transcripts import TranscriptFormat
    from serve.search.library import Library
    from serve.values import IndexOutcome, IndexProgress


def main() -> NoReturn:
    """Run the command of this process: the console script's entry."""
    logging.basicConfig(stream=sys.stderr, level=logging.CRITICAL, format="%(name)s: %(message)s")
    # Idle OpenMP threads spin before they sleep, which takes the cores from decoding; torch reads this when it loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    warnings.simplefilter("ignore")  # of the libraries below: they are for developers, see --debug
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal of any encoding
    cli.main(prog_name="kinodex")


@contextlib.contextmanager
def _open(data: Path | None, config: Path | None) -> "Iterator[Library]":
    directory, settings = load(data, config)
    from serve.search.library import Library

    with contextlib.closing(Library.open(directory, settings)) as library:
        yield library


# ------------------------------------------------------------------ the commands
@click.group(
    name="kinodex",
    cls=OneLineGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  kinodex index ~/Videos                              read what is there into a library
  kinodex search "hiking in the mountains"            which videos?
  kinodex moments "when does she mention Paris?"      at what time?
  kinodex moments "a red car" --sheet cars.png        the answers as pictures
  kinodex COMMAND --help                              more of each""",
)
@click.version_option(package_name="kinodex", message="%(prog)s %(version)s")
@debug_option
def cli() -> None:
    """Find videos, and exact moments in them, by what is seen and what is said."""


@cli.command(
    epilog="""\b
Examples:
  kinodex index holiday.mp4 talks/ https://example.org/lecture.webm
  kinodex index talks/ --collection talks --data /srv/library
  kinodex index talks/ --json | jq -r 'select(.status == "failed") | .uri'

\b
Reading the same bytes again changes nothing, so a run that was stopped is simply run again.
Exit status: 0 all is indexed; 1 something failed, and the rest is indexed; 130 stopped by Ctrl-C."""
)
@click.argument("inputs", nargs=-1, required=True, metavar="PATH|DIR|URL...")
@click.option("--collection", metavar="C", default="default", show_default=True, help="Put the videos there.")
@json_option
@library_options
@click.pass_context
def index(
    ctx: click.Context, inputs: tuple[str, ...], collection: str, as_json: bool, data: Path | None, config: Path | None
) -> None:
    """Read videos into the library: files, folders, URLs."""
    directory, settings = load(data, config)
    from serve.cli.progress import run_with_progress
    from serve.indexing import pipeline

    def start(progress: "IndexProgress") -> Iterator["IndexOutcome"]:
        return pipeline.index(inputs, directory, settings, collection=collection, progress=progress)

    ctx.exit(run_with_progress(start, as_json=as_json))


@cli.command(
    epilog="""\b
Examples:
  kinodex search "a boat in a storm"
  kinodex search --image photo.jpg --limit 3
  kinodex search "a boat in a storm" --server library.example.org:8970
  kinodex search "budget for next year" --channel speech --json"""
)
@question_options
@library_options
def search(data: Path | None, config: Path | None, **question: Any) -> None:
    """Find the videos that answer QUERY."""
    _ask("search", data, config, question)


@cli.command(
    epilog="""\b
Examples:
  kinodex moments "at what time does the speaker mention Paris?"
  kinodex moments "a dog runs into the water" --video 3fa9 --limit 5
  kinodex moments "goal" --sheet goals.png
  kinodex moments "goal" --json | jq '.moments[0].start_seconds'"""
)
@question_options
@click.option("--video", "video_ids", metavar="ID", multiple=True, help="Look in this video only (repeatable).")
@library_options
def moments(data: Path | None, config: Path | None, **question: Any) -> None:
    """Find the moments that answer QUERY."""
    _ask("moments", data, config, question)


def _ask(kind: Literal["search", "moments"], data: Path | None, config: Path | None, question: Any) -> None:
    if not (question["text"] or "").strip() and question["image"] is None:
        raise click.UsageError("a question is needed: QUERY, or --image FILE")
    server = question.pop("server")
    if server is not None and data is not None:
        raise click.UsageError("--server and --data name two libraries: give one of them")
    from serve.cli.ask import Question, ask, check_sheet
    from serve.client.any_library import open_library

    if question["sheet"] is not None:
        check_sheet(question["sheet"])
    directory, settings = load(data, config, is_local=server is None)
    with open_library(settings, directory, server) as asked:
        ask(kind, Question(**question), asked)


@cli.command("list")
@click.option("--collection", metavar="C", help="Only this collection's.")
@json_option
@library_options
def list_videos(collection: str | None, as_json: bool, data: Path | None, config: Path | None) -> None:
    """List the videos in the library.

    With --json, one object a line.
    """
    from rich.console import Console

    from serve.cli.render import show_videos, video_json
    from serve.text import to_json

    with _open(data, config) as library:
        videos = library.videos(collection)
    if not videos:
        click.echo("kinodex: nothing is indexed here yet (kinodex index PATH)", err=True)
    if not as_json:
        show_videos(Console(), videos)
    for video in videos if as_json else ():
        click.echo(to_json(video_json(video)))


@cli.command()
@click.argument("video_id", metavar="ID")
@json_option
@library_options
def show(video_id: str, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Show what is known about a video.

    The first characters of its ID are enough.
    """
    from rich.console import Console

    from serve.cli.render import show_video, video_json
    from serve.text import to_json

    with _open(data, config) as library:
        video = library.video(video_id)
    if as_json:
        click.echo(to_json(video_json(video)))
    else:
        show_video(Console(), video)


@cli.command(
    epilog="""\b
Examples:
  kinodex transcript 3fa9
  kinodex transcript 3fa9 --format srt > holiday.srt"""
)
@click.argument("video_id", metavar="ID")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "srt", "vtt", "json"]),
    default="text",
    show_default=True,
    help="text has a line an utterance; srt and vtt are subtitles; json has every word's times.",
)
@library_options
def transcript(video_id: str, format_: "TranscriptFormat", data: Path | None, config: Path | None) -> None:
    """Print what is said in a video.

    The first characters of its ID are enough.
    """
    from serve.cli.transcripts import write_transcript
    from serve.text import title

    with _open(data, config) as library:
        video = library.video(video_id)
        utterances = library.transcript(video)
    if not utterances:
        click.echo(f"kinodex: no speech was found in {title(video.uri)}", err=True)
    click.echo(write_transcript(video, utterances, format_).encode("utf-8", "backslashreplace"), nl=False)


@cli.command()
@click.argument("video_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--collection", metavar="C", help="Only out of this collection.")
@click.option(
    "--kafka", "servers", metavar="SERVERS", help="HOST:PORT,... of Kafka's brokers.  [default: kafka.servers, none]"
)
@click.option("--local", "is_local", is_flag=True, help="Also live videos, and only out of this library.")
@library_options
def delete(
    video_ids: tuple[str, ...],
    collection: str | None,
    servers: str | None,
    is_local: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    """Take videos out of the library.

    Their files are not touched. If one ID is wrong, nothing is deleted. The deletion of a live video goes by way of
    Kafka to every server.
    """
    directory, settings = load(data, config)
    from serve.indexing import pipeline
    from serve.settings import with_kafka_servers

    kafka = with_kafka_servers(settings, servers).kafka
    for video_id in pipeline.delete(directory, video_ids, collection=collection, kafka=kafka, is_local=is_local):
        click.echo(f"deleted {video_id}")


@cli.command()
@json_option
@library_options
@click.pass_context
def reindex(ctx: click.Context, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Read every video again with other encoders.

    The encoders are those that the settings name now. The library answers from its old rows until the new
    ones are whole.
    """
    directory, settings = load(data, config)
    from serve.cli.progress import run_with_progress
    from serve.indexing import pipeline

    ctx.exit(
        run_with_progress(lambda progress: pipeline.reindex(directory, settings, progress=progress), as_json=as_json)
    )


@cli.command(
    epilog="""\b
Examples:
  kinodex calibrate questions.json
  kinodex calibrate questions.json --data /srv/library --json

\b
Questions with "half": "report" choose nothing, and are counted apart:
  {"videos":  [{"file": "a.mp4", "caption": "a dog in the snow", "half": "train"}],
   "moments": [{"file": "a.mp4", "query": "the dog jumps", "channel": "visual"}],
   "absent":  [{"query": "a volcano", "channel": "visual"}]}"""
)
@click.argument("questions", type=click.Path(path_type=Path), metavar="QUESTIONS.json")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write here.  [default: calibration.json of the library]",
)
@json_option
@library_options
def calibrate(questions: Path, out: Path | None, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Measure how this library's visual encoder is to be read.

    Encoders differ in scale. From questions whose answers are known, this chooses the sentences a question is put in,
    what counts as generic, and the scores at which an answer is called a MATCH or no match. It holds for the encoder,
    by its fingerprint; mini's own ships with it.
    """
    from encoders.calibration import FILE, write_calibration
    from serve.cli.render import show_calibration
    from serve.evaluate.calibrate import choose_calibration
    from serve.evaluate.questions import read_questions
    from serve.text import to_json

    asked = read_questions(questions)
    with _open(data, config) as library:
        report = choose_calibration(library, asked)
        target = out or library.directory / FILE
    write_calibration(target, report.fingerprint, report.calibration)
    if as_json:
        click.echo(to_json(dataclasses.asdict(report)))
    else:
        from rich.console import Console

        show_calibration(Console(), report, target)


cli.add_command(serve)
cli.add_command(token)
cli.add_command(publish)
cli.add_command(worker)
cli.add_command(topics)
cli.add_command(evaluate)
cli.add_command(train)
cli.add_command(policies)
cli.add_command(rescore)
cli.add_command(events)


@cli.command()
@json_option
@library_options
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Say what is installed, what is missing, what to do.

    Nothing is downloaded.
    """
    from serve.cli.doctor import examine, show_findings

    findings = examine(data, config)
    show_findings(findings, as_json=as_json)
    ctx.exit(1 if any(finding.state == "missing" for finding in findings) else 0)


@cli.command(
    epilog="""\b
Examples:
  kinodex completion bash >> ~/.bashrc
  kinodex completion zsh  >> ~/.zshrc
  kinodex completion fish >  ~/.config/fish/completions/kinodex.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@debug_option
def completion(shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import ShellComplete, get_completion_class

    script = get_completion_class(shell)
    if script is None:  # cannot be: these three are click's own
        raise click.UsageError(f"no completion for {shell}")
    # The base class's source(), because bash's own first starts a bash to ask for its version.
    click.echo(ShellComplete.source(script(cli, {}, "kinodex", "_KINODEX_COMPLETE")))
