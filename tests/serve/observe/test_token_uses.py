"""Uses of tokens: noted once a minute, and never at the price of a call."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve.observe.token_uses import TokenUses, forget_uses, last_uses

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "token-uses"


def test_the_last_use_of_each_token_is_noted_once_a_minute(folder: Path) -> None:
    uses = TokenUses(folder)
    assert last_uses(folder) == {}
    uses.note("00000001", NOW)
    uses.note("00000002", NOW + MINUTE / 2)
    uses.note("00000001", NOW + MINUTE / 2)
    assert last_uses(folder) == {"00000001": NOW, "00000002": NOW + MINUTE / 2}
    uses.note("00000001", NOW + MINUTE)
    assert last_uses(folder)["00000001"] == NOW + MINUTE
    uses.note("00000001", NOW)  # a clock that was set back
    assert last_uses(folder)["00000001"] == NOW
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "00000001").stat().st_mode & 0o777 == 0o600
    forget_uses(folder, ["00000001", "00000003"])
    assert list(last_uses(folder)) == ["00000002"]


def test_a_use_that_cannot_be_noted_is_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_bytes(b"")
    uses = TokenUses(folder)
    for number in range(3):
        uses.note(f"0000000{number}", NOW)
    assert caplog.messages == [f"uses of tokens cannot be noted folder={folder} reason={os.strerror(17)}"]
