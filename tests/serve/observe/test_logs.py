"""Log lines: one for each event, whatever is in it."""

import io
import logging
import re

import pytest

from serve.observe.logs import stderr_handler

FORGED = "2026-01-01T00:00:00.000Z ERROR serve request_id=- library deleted"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ test request_id=\S+ ")


class Log:
    """A logger, and what it writes to standard error."""

    def __init__(self) -> None:
        self.logger, self.handler, self.stream = logging.Logger("test"), stderr_handler(), io.StringIO()
        assert isinstance(self.handler, logging.StreamHandler)
        self.handler.setStream(self.stream)
        self.logger.addHandler(self.handler)

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\0", "\x1b[2J"])
def test_a_name_never_ends_a_line(end: str) -> None:
    log = Log()
    log.logger.warning("job failed uri=%s", f"a{end}{FORGED}")
    (line,) = log.lines()
    assert LINE.match(line)
    assert line.isprintable()


@pytest.mark.parametrize("mark", ["\u202e", "\u2066", "\u200f", "\u061c", "\ufeff", "\u200b"])
def test_a_name_never_looks_like_another(mark: str) -> None:
    log = Log()
    log.logger.warning("job failed uri=%s", f"film{mark}4pm.exe")
    (line,) = log.lines()
    assert line.endswith(f" uri=film{mark.encode('unicode_escape').decode()}4pm.exe")


def test_names_of_all_languages_are_readable() -> None:
    log = Log()
    log.logger.warning("job failed uri=%s", "vidéo Привет 動画 🎬.mp4")
    assert log.lines()[0].endswith("uri=vidéo Привет 動画 🎬.mp4")


def test_a_traceback_forges_no_line() -> None:
    log = Log()
    try:
        raise ValueError(f"bad name\n{FORGED}\u2028{FORGED}\x1b[2J")
    except ValueError:
        log.logger.exception("call failed")
    first, *rest = log.lines()
    assert LINE.match(first)
    assert "\tValueError: bad name" in rest
    assert all(line.startswith("\t") and line[1:].isprintable() for line in rest)
