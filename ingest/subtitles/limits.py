"""Limits of subtitles, which are untrusted text."""

MAX_FILE_BYTES = 8 << 20  # of a subtitle file or track; those of the longest films have 300 KB
MAX_COUNT = 50_000  # subtitles of one track: a day with one every two seconds
MAX_LINES = 10  # of one subtitle; guides allow 2
MAX_LINE_CHARS = 500  # of one line, with its markup
MAX_TEXT_CHARS = 1000  # of one subtitle, without its markup; guides allow 84
MAX_SECONDS = 300.0  # of one subtitle: a sign may stand for minutes; more is a wrong time
OPEN_SECONDS = 10.0  # of a subtitle whose end is not stored, if the next one does not end it sooner
