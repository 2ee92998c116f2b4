"""server.webhook_url: URLs that cannot be posted to are refused when the server starts; proxies of the environment."""

import pytest

from serve.errors import SettingsError
from serve.moderation.webhook import check_url, proxy_for


@pytest.mark.parametrize(
    "url",
    ["http://h", "https://example.org/hook?key=a%20b", "http://127.0.0.1:8080/", "http://[::1]:80/x", "HTTP://h/"],
)
def test_accepts_urls_that_can_be_posted_to(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must be http:// or https://"),
        ("example.org/hook", "must be http:// or https://"),
        ("ftp://example.org/", "must be http:// or https://"),
        ("http://", "must name a host"),
        ("http:///hook", "must name a host"),
        ("http://:80/", "must name a host"),
        ("http://h:0/", "must name a host"),
        ("http://h:x/secret", "is not a URL"),
        ("http://h:70000/", "is not a URL"),
        ("http://[::1/", "is not a URL"),
        ("http://user:secret@h/", "must not hold a user"),
        ("http://h/secret\N{LATIN SMALL LETTER E WITH ACUTE}", "must be of ASCII"),
        ("http://h/a secret", "must be of ASCII"),
    ],
)
def test_refuses_other_urls_without_quoting_them(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match="webhook_url") as caught:
        check_url(url)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"http_proxy": "proxy:3128"}, "http://proxy:3128"),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "localhost,example.org"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "ALL_PROXY": "socks5://proxy:1080"}, None),
    ],
)
def test_uses_the_proxy_of_the_environment_for_its_scheme(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], proxy: str | None
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for("http://hooks.example.org:8080/events?key=1") == proxy
