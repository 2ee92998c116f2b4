"""What the command changes is in the audit log."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve.catalog.catalog import Catalog
from serve.cli.main import cli
from support.sample_catalog import put


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with Catalog.open_writer(tmp_path / "data") as catalog:
        put(catalog, "c0ffee0123", collection="talks")
    (tmp_path / "data" / "kinodex.toml").write_text(f'[server]\naudit_log = "{tmp_path}/audit.jsonl"', "utf-8")
    monkeypatch.setenv("KINODEX_DATA", str(tmp_path / "data"))
    return tmp_path / "audit.jsonl"


def delete(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["delete", *arguments])


def test_deleted_videos_are_recorded_with_their_collection(file: Path) -> None:
    assert delete("c0ffee").stdout == "deleted c0ffee0123\n"
    assert delete("c0ffee").exit_code == 1
    done, failed = map(json.loads, file.read_text("ascii").splitlines())
    assert (done["method"], done["outcome"]) == ("kinodex delete", "OK")
    assert (done["collections"], done["ids"]) == (["talks"], ["c0ffee", "c0ffee0123"])
    assert (failed["outcome"], failed["reason"], failed["ids"]) == ("FAILED", "VIDEO_NOT_FOUND", ["c0ffee"])


def test_a_deletion_that_cannot_be_recorded_is_a_warning(file: Path) -> None:
    file.mkdir()
    result = delete("c0ffee")
    assert (result.exit_code, result.stdout) == (0, "deleted c0ffee0123\n")
    assert result.stderr == f"kinodex: warning: cannot write {file}: Is a directory: this act is not in the audit log\n"


def test_new_limits_of_retention_are_recorded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINODEX_SERVER_AUDIT_LOG", str(file))
    monkeypatch.setattr("serve.live.cluster_retention.store_limits", lambda kafka, limits: None)
    for limits in (["cams=7d", "*=1d"], ["--forever"]):
        assert CliRunner().invoke(cli, ["retention", *limits, "--kafka", "127.0.0.1:1"]).exit_code == 0
    lines = [json.loads(line) for line in file.read_text("ascii").splitlines()]
    assert [line["ids"] for line in lines] == [["cams=7d", "*=1d"], ["--forever"]]
    assert {line["method"] for line in lines} == {"kinodex retention"}
