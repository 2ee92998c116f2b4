"""`kinodex list --collections`, on a real library."""

import json
from pathlib import Path

from click.testing import CliRunner

from serve.catalog.catalog import Catalog
from serve.cli.main import cli
from support.sample_catalog import put


def test_the_command_lists_collections(tmp_path: Path) -> None:
    with Catalog.open_writer(tmp_path) as catalog:
        put(catalog, "film", collection="cams")
    given = ["list", "--collections", "--data", str(tmp_path)]
    lines = CliRunner().invoke(cli, given).stdout.splitlines()
    assert lines == ["cams  1 video, 1:00", "default  0 videos, 0:00"]
    shown = [json.loads(line) for line in CliRunner().invoke(cli, [*given, "--json"]).stdout.splitlines()]
    assert [(each["collection"], each["video_count"]) for each in shown] == [("cams", 1), ("default", 0)]
    assert CliRunner().invoke(cli, [*given, "--collection", "cams"]).exit_code == 2
