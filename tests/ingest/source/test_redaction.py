"""What of a URI is shown, logged and stored: never a secret, in whatever form it comes."""

import pytest

from ingest.source.redaction import is_redacted, redact_uri, redact_uris
from ingest.source.source import display_uri

# The secret of every form; each is put in at {}.
WORDS = ("hunter2", "s3cr3t-Hunter2", "correct horse".replace(" ", "%20"))
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.dBjftJeZ4CVPmB92K27uhbUJU1p1r"
KEYS = (JWT, "9f86d081884c7d659a2feaa0c55ad015", "Zm9vYmFyMTIzNDU2Nzg5MGFiY2RlZg", "q7Xk2Lm9Pz4Rt6Vw8Yb1Nc3")
HIDDEN = [
    # a user and a password
    "https://ann:{}@example.org/talk.mp4",
    "https://{}@example.org/talk.mp4",
    "https://ann:{}/x@example.org/talk.mp4",  # an unescaped slash makes the port no number
    "https://ann:80/{}@example.org/talk.mp4",  # or a number, and the rest a path
    "https://ann:1#{}@example.org/talk.mp4",
    "https://ann:1?{}@example.org/talk.mp4",
    "https://ann:{}@[example.org/talk.mp4",  # no URL at all
    "https:ann:{}@example.org/talk.mp4",
    "https:\\\\ann:{}@example.org/talk.mp4",
    " https://ann:{}@example.org/talk.mp4",
    "RTSP://ann:{}@10.0.0.1:554/1",
    # parameters
    "https://example.org/talk.mp4?token={}",
    "https://example.org/talk.mp4?pin={}",
    "https://example.org/talk.mp4?v=1&access%5Ftoken={}",
    "https://example.org/talk.mp4?v=1;auth={}",
    "https://example.org/talk.mp4?{}",
    "https://example.org/talk.mp4?a=b={}",
    "https://example.org:port/talk.mp4?token={}",
    "https://example.org/talk.mp4?url=https://ann:{}@other.org/a.mp4",
    "https://example.org/talk.mp4#access_token={}",
    "https://b.s3.amazonaws.com/talk.mp4?X-Amz-Credential={}&X-Amz-Date=20260101T000000Z&X-Amz-Security-Token={}"
    "&X-Amz-Signature={}",
    "https://b.s3.amazonaws.com/talk.mp4?AWSAccessKeyId={}&Expires=1790000000&Signature={}",
    "https://storage.googleapis.com/b/talk.mp4?GoogleAccessId={}&X-Goog-Signature={}",
    "https://a.blob.core.windows.net/c/talk.mp4?sv=2022-11-02&sp=r&skoid={}&sig={}",
    "https://d111.cloudfront.net/talk.mp4?Policy={}&Signature={}&Key-Pair-Id={}",
    "https://cdn.example.org/live.m3u8?hdnts=exp=1790000000~acl=/*~hmac={}",
    "https://cdn.example.org/live.m3u8?wowzatokenhash={}",
    "srt://cam.example.org:9000?streamid=cam1&passphrase={}",
    # a path
    "https://example.org/talk.mp4;jsessionid={}",
    "https://example.org/a;sid={}/talk.mp4?v=1",
    "https://cdn.example.org/hdntl=exp=1790000000~acl=%2f*~hmac={}/live.m3u8",
    "https://cdn.example.org/st={},e=1790000000/live.m3u8",
    "https://cdn.example.org/token/{}/live.m3u8",
    "https://api.example.org/jwt/{}",
    "https://api.example.org/file/bot1234:{}@x/talk.mp4",
    "https://cdn.example.org/sec({})/talk.mp4",
    "rtmp://live.example.org/app/{}",
    "file://ann:{}@host/talk.mp4?key={}#{}",
]
RANDOM_IN_PATH = [
    "https://customer.example.org/{}/manifest/video.m3u8",
    "https://cdn.example.org/{}/1790000000/live.m3u8",
    "https://stream.example.org/{}.m3u8",
    "https://example.org/talk.mp4?id={}",
    "https://example.org/talk.mp4?file=a/{}/b",
    "https://example.org/talk.mp4?{}=1",
    "https://example.org/%2565yJ0/{}",
]
SHOWN = [
    "https://example.org/talk.mp4",
    "https://example.org:8443/a/b/c.mp4?v=1&n=2",
    "https://example.org/watch?v=dQw4w9WgXcQ&t=42",
    "https://example.org/@someone/My%20holiday%20in%20Patagonia%20(2019).mp4",
    "https://example.org/123e4567-e89b-12d3-a456-426614174000/s01e02.1080p.h264.mkv",
    "https://example.org/cam-3/20260101T120000Z.ts",
    "https://example.org/play?file=/talks/monday.mp4&quality=720p",
    "https://example.org/vidéo/Привет.mp4",
    "https://[2001:db8::1]:80/a.mp4",
    "rtsp://10.0.0.1:554/1",
    "file:///films/9f86d081884c7d659a2feaa0c55ad015/a%3Bb=c.mp4",
    "/films/9f86d081884c7d659a2feaa0c55ad015/token/a=b;c.mp4",
    "talk: part 1@2x.mp4",
    "upload:9f86d081884c7d659a2feaa0c55ad015@x.mp4",
    "stream:cams/gate=1",
]


@pytest.mark.parametrize("form", HIDDEN)
def test_hides_every_secret_whatever_it_looks_like(form: str) -> None:
    for secret in (*WORDS, *KEYS):
        uri = form.replace("{}", secret)
        for shown in (redact_uri(uri), display_uri(uri)):
            assert secret not in shown
            assert shown.strip()[:4].lower() == uri.strip()[:4].lower()
            assert redact_uri(shown) == shown


@pytest.mark.parametrize("form", RANDOM_IN_PATH)
def test_hides_what_only_a_random_generator_writes(form: str) -> None:
    for secret in KEYS:
        shown = redact_uri(form.replace("{}", secret))
        assert secret not in shown
        assert is_redacted(shown)
        assert redact_uri(shown) == shown


@pytest.mark.parametrize("uri", SHOWN)
def test_shows_names(uri: str) -> None:
    assert redact_uri(uri) == uri == display_uri(uri)
    assert not is_redacted(uri)


def test_says_what_it_hides() -> None:
    assert redact_uri("https://u:p@x.org:81/a/token/abc/b.m3u8;sid=1?v=1&sig=2#f") == (
        "https://x.org:81/a/token/REDACTED/b.m3u8;sid=REDACTED?v=1&sig=REDACTED"
    )
    assert redact_uri("https://x.org/9f86d081884c7d659a2feaa0c55ad015.m3u8") == "https://x.org/REDACTED.m3u8"


def test_hides_the_secrets_of_uris_in_a_text() -> None:
    text = "no such page: https://u:p@x.org/a.mp4?sig=abc (check the URL), and /a/b=c; https://x.org/b.mp4?v=1."
    assert redact_uris(text) == (
        "no such page: https://x.org/a.mp4?sig=REDACTED (check the URL), and /a/b=c; https://x.org/b.mp4?v=1."
    )
