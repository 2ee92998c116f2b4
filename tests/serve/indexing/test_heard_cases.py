"""Files from the field whose speech was not heard once: a silent first track, and stereo that cancels out.

They say the narration of the demo.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress


@pytest.mark.slow
@pytest.mark.parametrize("name", ["silent-first-track/silent_first.mov", "out-of-phase/out_of_phase.mp4"])
def test_six_sentences_are_heard(shared: Path, tmp_path: Path, name: str) -> None:
    settings = Settings(workers=1)
    settings = replace(settings, visual=replace(settings.visual, model="none"))
    [outcome] = index([str(shared / "cases" / name)], tmp_path, settings, progress=SilentProgress())
    assert (outcome.status, outcome.warnings) == ("indexed", ())
    assert outcome.utterances == 6
