"""`make demo`: indexes the demo's six videos, asks spoken and visual questions, and draws a contact sheet.

python -m serve.demo [DATA]        DATA is the folder of the library, by default ./demo-data
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
from serve.values import Channel, Moment, Query, Verdict

HERE = Path(__file__).resolve().parent
ANSWER_COUNT = 2  # answers printed for each question: the best, and the next for comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoQuestion:
    """A question of the demo, and the span that answers it."""

    text: str
    channel: Channel
    file: str
    start_seconds: float
    end_seconds: float


def read_demo_questions() -> list[DemoQuestion]:
    """Read the first spoken and the first visual question about each video from questions.json."""
    rows = json.loads((HERE / "questions.json").read_text(encoding="utf-8"))["moments"]
    questions: dict[tuple[str, str], DemoQuestion] = {}
    for row in rows:
        question = DemoQuestion(
            text=row["query"],
            channel=row["channel"],
            file=row["file"],
            start_seconds=row["start_seconds"],
            end_seconds=row["end_seconds"],
        )
        questions.setdefault((question.file, question.channel), question)
    return sorted(questions.values(), key=lambda question: question.channel)


def is_right(moment: Moment, question: DemoQuestion) -> bool:
    """Whether an answer is given as one: of the right video, overlapping the right span, and not NO_MATCH."""
    return (
        moment.verdict is not Verdict.NO_MATCH
        and Path(moment.uri).name == question.file
        and moment.start_seconds < question.end_seconds
        and moment.end_seconds > question.start_seconds
    )


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
    except EncoderSpaceMismatch:  # the folder is of an older demo with other encoders
        status = run_with_progress(lambda progress: reindex(directory, settings, progress=progress), as_json=False)
    if status:
        return status
    right_count = 0
    cells = []
    with Library.open(directory, settings) as library:
        for question in read_demo_questions():
            console.print(f'\n[bold]$ kinodex moments "{question.text}" --data {directory}[/bold]', soft_wrap=True)
            answer = library.moments(Query(text=question.text, limit=ANSWER_COUNT))
            show_moments(console, question.text, answer)
            best = answer.moments[0]
            right_count += is_right(best, question)
            cells.append(make_cell(LocalLibrary(library), best, question.text))
    sheet = directory / "demo.png"
    outcome = f"{right_count} of {len(cells)} questions were answered with the right video and the right seconds."
    draw_sheet("the demo's questions: the best answer to each", cells, outcome).save(sheet)
    console.print(f"\n{outcome}")
    console.print(f"The best answers, with times and words: {sheet}")
    console.print(f"The same in a browser: .venv/bin/kinodex serve --data {directory} --open", soft_wrap=True)
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
