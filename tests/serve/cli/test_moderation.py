"""`kinodex events` on the events of a catalog, without an encoder."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve.catalog.catalog import Catalog
from serve.cli.main import cli
from support.sample_catalog import SPACE, put
from support.sample_events import FIRE, put_events

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with Catalog.open_writer(tmp_path) as catalog:
        catalog.set_space(SPACE)
        put_events(catalog, put(catalog, "a"), 2)
    return tmp_path


def events(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["events", "--data", str(data), *arguments])


def test_the_text_of_an_event_cannot_move_the_cursor(data: Path) -> None:
    with Catalog.open_writer(data) as catalog:
        foul = replace(FIRE, label="Fi\x1b[2Jre", parents=("Haz\rards",), action="al\aert", start_seconds=50.0)
        put_events(catalog, put(catalog, "b"), 1, foul)
    shown = events(data).stdout
    assert shown.count("Hazards > Fire  (alert)\n") == 2
    assert shown.replace("\n", "").isprintable()


def test_unknown_collections_and_videos_are_errors(data: Path) -> None:
    assert len(events(data, "--collection", "default").stdout.splitlines()) == 2
    assert events(data, "--collection", "defualt").stderr == "kinodex: error: no collection defualt\n"
    assert events(data, "--video", "none").stderr.startswith("kinodex: error: no video none")


def test_videos_are_named_by_the_first_characters_of_their_ids_and_policies_by_their_ids(data: Path) -> None:
    with Catalog.open_writer(data) as catalog:
        row = put(catalog, "holiday-film", collection="other")
        put_events(catalog, row, 3, replace(FIRE, collection="other", video_id="holiday-film", policy_id="flood"))
    assert events(data, "--video", "holi").stdout.count("holiday-film") == 3
    assert events(data, "--video", "holi", "--video", "a").stdout.count("Fire") == 5
    assert events(data, "--video", "holi", "--collection", "default").exit_code == 1
    assert events(data, "--policy", "flood").stdout.count("holiday-film") == 3
    assert events(data, "--policy", "fire", "--policy", "flood").stdout.count("Fire") == 5


@pytest.mark.slow
def test_following_an_unreachable_server_says_that_it_waits(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        address = f"127.0.0.1:{bound.getsockname()[1]}"  # nobody listens there by the time it is asked
    command = [sys.executable, "-m", "kinodex", "events", "--follow", "--server", address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stderr is not None
        line = child.stderr.readline()
        child.kill()
    assert line == f"kinodex: cannot reach the server at {address}: nothing listens there; waiting for the server\n"


def test_an_event_is_reviewed_and_listed_by_its_review(data: Path) -> None:
    given = ["--data", str(data)]
    name = json.loads(events(data, "--json").stdout.splitlines()[0])["event_id"]

    def review(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["events", "review", name, *given, *arguments])

    assert review("--dismiss", "--note", "a sun\x1b[2Jset").stdout.endswith("(alert)  dismissed: a sun\ufffd[2Jset\n")
    [shown] = [json.loads(line) for line in events(data, "--review", "dismissed", "--json").stdout.splitlines()]
    assert (shown["event_id"], shown["review"]["state"], shown["review"]["reviewer"]) == (name, "DISMISSED", "")
    assert len(events(data, "--review", "pending", "--review", "dismissed").stdout.splitlines()) == 2
    assert review("--undo").stdout.endswith("(alert)\n")
    assert events(data, "--review", "dismissed").stdout == ""
    for arguments in ([], ["--approve", "--dismiss"]):
        assert review(*arguments).exit_code == 2
    assert "note: must be at most 1,000 characters" in review("--approve", "--note", "x" * 1001).stderr
    lost = CliRunner().invoke(cli, ["events", "review", "none", *given, "--approve"])
    assert (lost.exit_code, lost.stderr) == (1, "kinodex: error: no event none\n")
    misplaced = CliRunner().invoke(cli, ["events", *given, "review", name, "--approve"])
    assert misplaced.exit_code == 2
