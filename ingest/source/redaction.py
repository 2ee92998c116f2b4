"""redact_uri(): decides what of a URI may be shown, logged and stored, for the whole product.

It works by allow-list. Scheme, host, port, path and the values of harmless parameters stay; a user and a password, a
fragment, and the values of all other parameters go. A path is a name as a rule, but some providers put keys into it:
parameters of a path (`;jsessionid=`), pairs (`/exp=1~hmac=2/`), what follows a word such as `/token/`, and words that
only a random generator writes go, too. The words of UUIDs are short, so UUIDs stay: they are the usual names of files.
"""

import re
from urllib.parse import unquote, urlsplit

REDACTED = "REDACTED"
# Parameters that say which video is meant, or how it is encoded. Their values stay if they look harmless, too.
_HARMLESS_PARAMETERS = frozenset({
    "v", "id", "video", "video_id", "videoid", "file", "filename", "name", "title", "path", "format", "fmt",
    "quality", "res", "resolution", "width", "height", "w", "h", "fps", "bitrate", "codec", "lang", "language",
    "locale", "start", "end", "begin", "t", "time", "offset", "from", "to", "duration", "page", "index", "list",
    "playlist", "channel", "stream", "track", "part", "season", "episode", "camera", "cam", "n", "num", "number",
    "seq", "segment", "version", "ver", "rev", "type", "mime", "ext", "container", "download", "dl", "raw", "alt",
    "itag", "profile", "size", "date", "day", "month", "year",
})  # fmt: skip
_SECRET_WORDS = frozenset({
    "token", "access_token", "auth", "jwt", "sig", "signature", "secret", "apikey", "api_key", "password", "hmac",
    "sid",
})  # fmt: skip
_NETWORK_SCHEMES = frozenset(["http", "https", "ftp", "ftps", "sftp", "rtsp", "rtsps", "rtmp", "rtmps", "srt"])
_URI = re.compile(r"\s*(?P<scheme>[a-z][a-z0-9+.-]+):(?P<slashes>//)?", re.IGNORECASE | re.ASCII)
_URI_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]+://[^\s\"'<>\\]*[^\s\"'<>\\,.;:!?)\]]", re.IGNORECASE | re.ASCII)
_PARAMETER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\[\]-]{0,39}", re.ASCII)
_EXTENSION = re.compile(r"\.[a-z][a-z0-9]{1,4}$", re.IGNORECASE | re.ASCII)
_CALL = re.compile(r"(sec|secure|sig|hash|auth|key|token)\(.*\)", re.IGNORECASE | re.ASCII)  # /sec(0123abcd)/
_TIME_OF_DAY = re.compile(r"[0-9]{8}T[0-9]{6}Z?", re.ASCII)
_RANDOM_CHARS = 16  # shortest word that can be taken for a key: names of 11 characters are common, keys of 16 are not
_RANDOM_CHANGES = 3  # between letters and digits, in such a word; names have few ("Holiday2024", "s01e02")


def redact_uri(uri: str) -> str:
    """Return a URI without its secrets. A plain path stays as it is; so does a redacted URI."""
    match = _URI.match(uri)
    if match is None or not (match["slashes"] or match["scheme"].lower() in _NETWORK_SCHEMES):
        return redact_uris(uri) if "://" in uri else uri  # a path, or a URI of our own, such as upload:NAME
    scheme = match["scheme"].lower()
    try:
        parts = urlsplit(uri.strip())
        _ = parts.port  # raises if an unescaped "/" in a password makes the port no number
    except ValueError:
        return f"{match['scheme']}:{match['slashes'] or ''}…"
    path = parts.path if scheme == "file" else _redact_path(parts.path, scheme)
    authority = f"//{parts.netloc.rpartition('@')[2]}" if match["slashes"] else ""
    query = re.sub("[^&;]+", lambda pair: _redact_pair(pair[0]), parts.query)
    return f"{match['scheme']}:{authority}{path}" + (f"?{query}" if query else "")


def redact_uris(text: str) -> str:
    """Return a text whose URIs have no secrets."""
    return _URI_IN_TEXT.sub(lambda uri: redact_uri(uri[0]), text)


def escape_unprintable(text: str) -> str:
    """Return a foreign text as one line that looks as it is: controls, line separators and bidi marks are escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def is_redacted(uri: str) -> bool:
    """Whether a stored URI may stand for several: it cannot be fetched, and names no place."""
    return REDACTED in uri or uri.endswith("…")


def _redact_path(path: str, scheme: str) -> str:
    segments = path.split("/")
    redacted, before = [], ""
    for number, segment in enumerate(segments):
        is_last = number == len(segments) - 1
        name, *parameters = segment.split(";")
        is_named_secret = before in _SECRET_WORDS and not (is_last and _EXTENSION.search(name))
        is_stream_key = scheme.startswith("rtmp") and is_last and number > 1
        if name and (is_named_secret or is_stream_key):
            name = REDACTED
        redacted.append(";".join([_redact_segment(name), *map(_redact_parameter, parameters)]))
        before = _decoded(segment).lower()
    return "/".join(redacted)


def _redact_segment(segment: str) -> str:
    text = _decoded(segment)
    if "=" in text:
        return _redact_pair(segment)
    if _is_random(text) or text.find("@") > 0 or _CALL.fullmatch(text):
        extension = _EXTENSION.search(text)
        return REDACTED + (extension[0] if extension else "")
    return segment


def _redact_parameter(parameter: str) -> str:
    return _redact_pair(parameter) if "=" in _decoded(parameter) else _redact_segment(parameter)


def _redact_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if _decoded(name).lower() in _HARMLESS_PARAMETERS and _is_harmless(_decoded(value)):
        return pair
    if not equals or not _PARAMETER_NAME.fullmatch(_decoded(name)) or _is_random(_decoded(name)):
        return REDACTED
    return f"{name}={REDACTED}"


def _is_harmless(value: str) -> bool:
    return all(char.isalnum() or char in " ._,+-/:" for char in value) and not _is_random(value)


def _is_random(text: str) -> bool:
    """Whether a text has a word that only a random generator writes, or a JSON Web Token."""
    words = re.split(r"[^A-Za-z0-9]+", _TIME_OF_DAY.sub("", text))
    return any(
        word.startswith("eyJ")
        or (len(word) >= _RANDOM_CHARS and len(re.findall(r"[A-Za-z]+|[0-9]+", word)) > _RANDOM_CHANGES)
        for word in words
    )


def _decoded(text: str) -> str:
    """Undo percent-encoding, also of a text that was encoded several times."""
    for _ in range(3):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    return text
