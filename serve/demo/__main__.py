"""`make demo`: index the small library we made, ask it spoken and visual questions, draw a contact sheet.

python -m serve.demo [DATA]        DATA defaults to ./demo-data
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from serve.cli.ask import make_cell
from serve.cli.progress import run_with_progress
from serve.cli.render import show_moments
from serve.cli.sheet import draw_sheet
from serve.client.any_library import LocalLibrary
from serve.errors import EncoderSpaceMismatch
from serve.indexing.pipeline import index, reindex
from serve.search.library import Library
from serve.settings import load_settings
from serve.values import Channel, Query

HERE = Path(__file__).resolve().parent
LISTED_COUNT = 2  # answers printed to each question: the best, and what it was preferred to


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question of the demo, with the answer that we know."""

    text: str
    channel: Channel
    file: str
    start_seconds: float
    end_seconds: float


def questions() -> list[Asked]:
    """Return the questions asked, of those in questions.json: every second one, so that each video has its turn."""
    known = json.loads((HERE / "questions.json").read_text(encoding="utf-8"))["moments"]
    asked = [
        Asked(
            text=one["query"],
            channel=one["channel"],
            file=one["file"],
            start_seconds=one["start_seconds"],
            end_seconds=one["end_seconds"],
        )
        for one in known
    ]
    first_of_each: dict[tuple[str, str], Asked] = {}
    for one in asked:
        first_of_each.setdefault((one.file, one.channel), one)
    return sorted(first_of_each.values(), key=lambda one: one.channel)


def main() -> int:
    """Run the demo; return the exit status."""
    console = Console(highlight=False)
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-data")
    settings = load_settings(directory, None)
    command = f"kinodex index {HERE.relative_to(Path.cwd()) if HERE.is_relative_to(Path.cwd()) else HERE}/videos"
    console.print(f"[bold]$ {command} --data {directory}[/bold]", soft_wrap=True)
    try:
        status = run_with_progress(
            lambda progress: index([str(HERE / "videos")], directory, settings, progress=progress), as_json=False
        )
    except EncoderSpaceMismatch:  # an older demo's folder
        status = run_with_progress(lambda progress: reindex(directory, settings, progress=progress), as_json=False)
    if status:
        return status
    right = 0
    cells = []
    with Library.open(directory, settings) as library:
        for one in questions():
            console.print(f'\n[bold]$ kinodex moments "{one.text}" --data {directory}[/bold]', soft_wrap=True)
            answer = library.moments(Query(text=one.text, limit=LISTED_COUNT))
            show_moments(console, one.text, answer)
            best = answer.moments[0]
            right += (
                Path(best.uri).name == one.file
                and best.start_seconds < one.end_seconds
                and best.end_seconds > one.start_seconds
            )
            cells.append(make_cell(LocalLibrary(library), best))
    sheet = directory / "demo.png"
    draw_sheet("the demo's questions: the best answer to each", cells).save(sheet)
    console.print(f"\n{right} of {len(cells)} questions were answered with the right video and the right seconds.")
    console.print(f"The best frames, with times and words: {sheet}")
    console.print(
        "\nNow with your own videos:\n"
        "  .venv/bin/kinodex index ~/Videos\n"
        '  .venv/bin/kinodex moments "when do they talk about the weather?"\n'
        '  .venv/bin/kinodex search "a walk on the beach" --sheet beach.png\n'
        "  .venv/bin/kinodex --help"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
