"""The command `kinodex`: its group, and the commands that work on a library.

Scripts depend on the names, options, JSON output and exit statuses. Heavy modules are imported inside the command that
needs them, so that `--help` answers at once. An error is one line on standard error. The exit status is 2 for a wrong
command line, and 1 if the work failed.
"""

import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from serve.cli.act.clip import clip
from serve.cli.act.play import play
from serve.cli.audit import audited
from serve.cli.chapters import chapters
from serve.cli.eval import evaluate
from serve.cli.failures import UNDECODABLE, OneLineGroup, debug_option
from serve.cli.kafka import publish, retention, topics, worker
from serve.cli.moderation import events, policies, rescore
from serve.cli.options import json_option, library_options, load_library_settings, local_library, question_options
from serve.cli.overview.collections import list_collections
from serve.cli.overview.jobs import jobs
from serve.cli.serve import serve
from serve.cli.streams import dead_letters, streams
from serve.cli.tokens import token
from serve.cli.train import train
from serve.cli.voices.speakers import speakers
from serve.cli.voices.transcript import transcript

if TYPE_CHECKING:
    from serve.values import IndexOutcome, IndexProgress


def main() -> NoReturn:
    """Run the command of this process, and exit."""
    logging.basicConfig(stream=sys.stderr, level=logging.CRITICAL, format="%(name)s: %(message)s")
    # Idle OpenMP threads spin before they sleep, and take the cores from decoding. torch reads this when it loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    warnings.simplefilter("ignore")  # warnings of libraries are meant for developers: --debug shows them
    for stream in (sys.stdout, sys.stderr):
        # A terminal may not be able to show every letter.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    cli.main(prog_name="kinodex")


# ------------------------------------------------------------------ the commands
@click.group(
    name="kinodex",
    cls=OneLineGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  kinodex index ~/Videos                              index the videos of a folder
  kinodex search "hiking in the mountains"            which videos show it?
  kinodex moments "when does she mention Paris?"      at what time?
  kinodex moments "a red car" --sheet cars.png        the answers as one picture
  kinodex COMMAND --help                              the options of a command""",
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
Indexing the same file again changes nothing. A file whose content has changed becomes the new version of its video,
under the same ID. If a run was stopped, run the same command again.
Exit status: 0 all inputs are indexed; 1 some inputs failed, the others are indexed; 130 stopped by Ctrl-C."""
)
@click.argument("inputs", nargs=-1, required=True, metavar="PATH|DIR|URL...")
@click.option("--collection", metavar="C", default="default", show_default=True, help="Collection for the videos.")
@json_option
@library_options
@click.pass_context
def index(
    ctx: click.Context, inputs: tuple[str, ...], collection: str, as_json: bool, data: Path | None, config: Path | None
) -> None:
    """Index videos: files, folders and URLs.

    With --json, one object for each video, on a line of its own.
    """
    directory, settings = load_library_settings(data, config)
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
    _ask_library("search", data, config, question)


@cli.command(
    epilog="""\b
Examples:
  kinodex moments "at what time does the speaker mention Paris?"
  kinodex moments "a dog runs into the water" --video 3fa9 --limit 5
  kinodex moments "goal" --sheet goals.png
  kinodex moments "goal" --limit 1 --play
  kinodex moments "goal" --clips goals/ --exact
  kinodex moments "goal" --export goals.otio
  kinodex moments "goal" --json | jq '.moments[0].start_seconds'"""
)
@question_options
@click.option("--video", "video_ids", metavar="ID", multiple=True, help="Search only this video. Repeatable.")
@click.option("--play", "plays", is_flag=True, help="Play the best moment.")
@click.option(
    "--clips", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help="Write each moment as an MP4 file."
)
@click.option(
    "--export",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the moments for an editor (.otio, .fcpxml, .edl) or as a table (.csv, .parquet).",
)
@click.option("--exact", "is_exact", is_flag=True, help="With --clips: encode anew, see kinodex clip --help.")
@library_options
def moments(data: Path | None, config: Path | None, **question: Any) -> None:
    """Find the moments that answer QUERY."""
    _ask_library("moments", data, config, question)


def _ask_library(kind: Literal["search", "moments"], data: Path | None, config: Path | None, question: Any) -> None:
    if not (question["text"] or "").strip() and question["image"] is None:
        raise click.UsageError("give a question: QUERY, or --image FILE")
    if UNDECODABLE.intersection(question["text"] or ""):
        raise click.UsageError("QUERY is not UTF-8 text")
    if question["speaker"].strip() and (not question["text"] or question["channel"] in ("visual", "text")):
        raise click.UsageError("--speaker needs a QUERY, and --channel all or speech")
    if UNDECODABLE.intersection(question["speaker"]):
        raise click.UsageError("--speaker is not UTF-8 text")
    server = question.pop("server")
    if server is not None and (question.get("plays") or question.get("clips")):
        raise click.UsageError("--play and --clips need the files: give --data, not --server")
    if question.get("is_exact") and not question.get("clips"):
        raise click.UsageError("--exact needs --clips DIR")
    if server is not None and data is not None:
        raise click.UsageError("give --data or --server, not both")
    from serve.cli.ask import QuestionOptions, ask, check_sheet
    from serve.client.any_library import open_library

    if question["sheet"] is not None:
        check_sheet(question["sheet"])
    if question.get("export") is not None:
        from serve.cli.act.export import check_export

        check_export(question["export"])
    directory, settings = load_library_settings(data, config, is_local=server is None)
    with open_library(settings, directory, server) as asked:
        ask(kind, QuestionOptions(**question), asked)


@cli.command("list")
@click.option("--collection", metavar="C", help="List only this collection.")
@click.option("--collections", "as_collections", is_flag=True, help="List the collections and what they hold.")
@json_option
@library_options
def list_videos(
    collection: str | None, as_collections: bool, as_json: bool, data: Path | None, config: Path | None
) -> None:
    """List the videos of the library, or its collections.

    With --json, one object for each video or collection, on a line of its own.
    """
    from rich.console import Console

    from serve.cli.render import show_videos, video_json
    from serve.text import to_json

    if as_collections:
        if collection is not None:
            raise click.UsageError("give --collection or --collections, not both")
        list_collections(data, config, as_json)
        return
    with local_library(data, config) as library:
        videos = library.videos(collection)
    if not videos:
        click.echo("kinodex: the library is empty; add videos: kinodex index PATH", err=True)
    if as_json:
        for video in videos:
            click.echo(to_json(video_json(video)))
    else:
        show_videos(Console(), videos)


@cli.command()
@click.argument("video_id", metavar="ID")
@json_option
@library_options
def show(video_id: str, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Show the facts about a video.

    The first characters of its ID are enough, or the name of its file.
    """
    from rich.console import Console

    from serve.cli.act.places import find_video
    from serve.cli.render import show_video, video_json
    from serve.text import to_json

    with local_library(data, config) as library:
        video = find_video(library, video_id)
    if as_json:
        click.echo(to_json(video_json(video)))
    else:
        show_video(Console(), video)


cli.add_command(transcript)


@cli.command()
@click.argument("video_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--collection", metavar="C", help="Delete only from this collection.")
@click.option("--kafka", "servers", metavar="SERVERS", help="Kafka's brokers, HOST:PORT,...  [default: kafka.servers]")
@click.option("--local", "is_local", is_flag=True, help="Delete live videos too, but from this library only.")
@library_options
def delete(
    video_ids: tuple[str, ...],
    collection: str | None,
    servers: str | None,
    is_local: bool,
    data: Path | None,
    config: Path | None,
) -> None:
    """Delete videos from the library.

    Their files stay. If an ID is wrong, nothing is deleted. The deletion of a live video reaches every server through
    Kafka.
    """
    directory, settings = load_library_settings(data, config)
    from serve.indexing import pipeline
    from serve.settings import with_kafka_servers

    kafka = with_kafka_servers(settings, servers).kafka
    with audited(settings.server, "kinodex delete") as subject:
        for video_id in video_ids:
            subject.add(collection=collection or "", name=video_id)
        deleted = pipeline.delete(directory, video_ids, collection=collection, kafka=kafka, is_local=is_local)
        for video in deleted:  # the names may be beginnings of ids
            subject.add(collection=video.collection, name=video.video_id)
    for video in deleted:
        click.echo(f"deleted {video.video_id}")


@cli.command()
@json_option
@library_options
@click.pass_context
def reindex(ctx: click.Context, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Index all videos again, for instance with other encoders.

    The settings name the encoders. The library answers from the old index until the new one is complete. A video that
    cannot be read again is named and stays listed, and answers only if the encoders are the same. With --json, one
    object for each video, on a line of its own.
    """
    directory, settings = load_library_settings(data, config)
    from serve.cli.progress import run_with_progress
    from serve.indexing import pipeline

    ctx.exit(
        run_with_progress(lambda progress: pipeline.reindex(directory, settings, progress=progress), as_json=as_json)
    )


@cli.command(
    epilog="""\b
Examples:
  kinodex calibrate questions.json
  kinodex calibrate questions.json more.jsonl --data /srv/library --json

\b
Each file of QUESTIONS holds questions with known answers. Those with "half": "report" only measure the result:
  {"videos":  [{"file": "a.mp4", "caption": "a dog in the snow", "half": "train"}],
   "moments": [{"file": "a.mp4", "query": "the dog jumps", "channel": "visual"}],
   "absent":  [{"query": "a volcano", "channel": "visual"}]}"""
)
@click.argument("questions", type=click.Path(path_type=Path), metavar="QUESTIONS...", nargs=-1, required=True)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File to write.  [default: calibration.json of the library]",
)
@json_option
@library_options
def calibrate(
    questions: tuple[Path, ...], out: Path | None, as_json: bool, data: Path | None, config: Path | None
) -> None:
    """Fit the confidences of the visual encoder.

    The scores of encoders differ in scale. From questions with known answers, this learns how often an answer with such
    scores is right: that is its confidence, by which it is called a MATCH or NO_MATCH. It also chooses the sentences
    into which a question is put, and the share of generic similarity to remove. A calibration is valid only for the
    encoder of this library. The built-in encoder mini already has one.
    """
    from encoders.calibration import FILE, write_calibration
    from serve.cli.render import show_calibration
    from serve.evaluate.calibrate import choose_calibration
    from serve.evaluate.questions import read_all_questions
    from serve.text import to_json

    with local_library(data, config) as library:
        report = choose_calibration(library, read_all_questions(questions))
        target = out or library.directory / FILE
    write_calibration(target, report.fingerprint, report.calibration)
    if as_json:
        click.echo(to_json(dataclasses.asdict(report)))
    else:
        from rich.console import Console

        show_calibration(Console(), report, target)


cli.add_command(clip)
cli.add_command(play)
cli.add_command(chapters)
cli.add_command(speakers)
cli.add_command(serve)
cli.add_command(token)
cli.add_command(jobs)
cli.add_command(publish)
cli.add_command(worker)
cli.add_command(topics)
cli.add_command(retention)
cli.add_command(streams)
cli.add_command(dead_letters)
cli.add_command(evaluate)
cli.add_command(train)
cli.add_command(policies)
cli.add_command(rescore)
cli.add_command(events)


@cli.command()
@click.option("--server", metavar="ADDR", help="Ask this server about itself; as in `kinodex moments`.")
@json_option
@library_options
@click.pass_context
def doctor(ctx: click.Context, server: str | None, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Check the installation and say what to do.

    Nothing is downloaded. With --server: how the server is, its encoders, its index and its queues.
    """
    if server is not None and data is not None:
        raise click.UsageError("give --data or --server, not both")
    from serve.cli.doctor import examine, show_results

    if server is None:
        results = examine(data, config)
        show_results(results, as_json=as_json)
    else:
        from serve.cli.overview.server import show_server

        results = show_server(server, as_json, config)
    ctx.exit(1 if any(result.state == "missing" for result in results) else 0)


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
    """Print a shell's completion script."""
    from click.shell_completion import ShellComplete, get_completion_class

    script = get_completion_class(shell)
    if script is None:  # cannot happen: click knows these three
        raise click.UsageError(f"no completion for {shell}")
    # The base class's source(): that of BashComplete first starts bash to ask for its version.
    click.echo(ShellComplete.source(script(cli, {}, "kinodex", "_KINODEX_COMPLETE")))
