"""Moments written for editors and tables are read back by the programs' own libraries."""

import csv
import io
import json
from pathlib import Path

import click
import pytest

from serve.cli.act.export import COLUMNS, check_export, write_csv, write_parquet, write_timeline
from support.sample_answers import moment, video

otio = pytest.importorskip("opentimelineio")
FOUND = (
    moment(start_seconds=11.02, end_seconds=24.0),
    moment(start_seconds=3.51, end_seconds=6.24, transcript="", confidence=0.4),
)
VIDEOS = {each.video_id: video(video_id=each.video_id) for each in FOUND}


@pytest.mark.parametrize(("suffix", "adapter"), [(".otio", "otio_json"), (".edl", "cmx_3600"), (".fcpxml", "fcpx_xml")])
def test_timeline_is_read_back(suffix: str, adapter: str) -> None:
    text = write_timeline(FOUND, dict(VIDEOS), "a cup", suffix)
    rate = json.loads(write_timeline(FOUND, dict(VIDEOS), "a cup", ".otio"))["tracks"]["children"][0]["children"][0][
        "source_range"
    ]["start_time"]["rate"]
    options = {"rate": rate} if suffix == ".edl" else {}
    timeline = otio.adapters.read_from_string(text, adapter_name=adapter, **options)
    clips = list(timeline.find_clips())
    for clip, wanted in zip(clips, FOUND, strict=True):
        span = clip.source_range
        assert span.start_time.to_seconds() == pytest.approx(wanted.start_seconds, abs=0.5 / rate + 1e-6)
        assert span.end_time_exclusive().to_seconds() == pytest.approx(wanted.end_seconds, abs=0.5 / rate + 1e-6)
        assert len(clip.markers) == 1
        assert clip.name == "a talk [part 1].mp4"


def test_tables_have_a_row_for_each_moment() -> None:
    rows = list(csv.DictReader(io.StringIO(write_csv(FOUND))))
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["start_seconds"]) for row in rows] == [11.02, 3.51]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(write_parquet(FOUND)))
    assert table.column_names == list(COLUMNS)
    assert table["confidence"].to_pylist() == [0.8765, 0.4]
    assert parquet.read_table(io.BytesIO(write_parquet(()))).num_rows == 0


def test_unknown_format_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="ends in none of"):
        check_export(Path("a.avi"))
