"""Requests that a foreign web page made a browser send: refused, whatever they ask for."""

import pytest
from starlette.datastructures import Headers

from serve.console.guard import Guard

GUARD = Guard(None, ["search.example.com"])
HOST = {"host": "127.0.0.1:8971"}
NAVIGATION = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", HOST),  # curl
        ("POST", {"host": "localhost:8971"}),
        ("POST", {"host": "[::1]:8971"}),
        ("POST", {"host": "Search.Example.com"}),
        ("POST", {**HOST, "origin": "http://127.0.0.1:8971", "sec-fetch-site": "same-origin"}),
        ("POST", {"host": "search.example.com", "origin": "https://search.example.com"}),  # behind a proxy with TLS
        ("GET", {**HOST, "sec-fetch-site": "none", "sec-fetch-mode": "navigate"}),  # typed into the address bar
        ("GET", {**HOST, **NAVIGATION}),  # a link on another site
    ],
)
def test_requests_of_programs_and_of_our_own_pages_pass(method: str, headers: dict[str, str]) -> None:
    assert GUARD.problem(method, Headers(headers)) == ""


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {}),
        ("POST", {"host": ""}),
        ("POST", {"host": "evil.example:8971"}),  # its name leads to 127.0.0.1: DNS rebinding
        ("GET", {"host": "evil.example:8971", **NAVIGATION}),
        ("POST", {"host": "localhost.evil.example"}),
        ("POST", {"host": "127.0.0.1.evil.example"}),
        ("POST", {"host": "127.0.0.1@evil.example"}),
        ("POST", {"host": "[::1"}),
        ("POST", {"host": "0x7f.1"}),
        ("POST", {**HOST, "origin": "https://evil.example"}),
        ("POST", {**HOST, "origin": "null"}),
        ("POST", {**HOST, "origin": "http://127.0.0.1:8972"}),  # another server of this machine
        ("POST", {**HOST, "origin": "http://127.0.0.1:8971.evil.example"}),
        ("GET", {**HOST, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}),
        ("GET", {**HOST, "sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}),
        ("GET", {**HOST, **NAVIGATION, "sec-fetch-dest": "iframe"}),
        ("POST", {**HOST, **NAVIGATION}),  # a form on another site
    ],
)
def test_requests_of_foreign_pages_are_refused(method: str, headers: dict[str, str]) -> None:
    assert GUARD.problem(method, Headers(headers)) != ""
