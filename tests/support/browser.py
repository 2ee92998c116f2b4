"""What tests of the console share."""

from playwright.sync_api import Page

from support.waiting import wait_until


def until(page: Page, condition: str) -> None:
    """Wait for a condition in JavaScript: the page's policy forbids the eval() of Playwright's wait_for_function."""
    wait_until(lambda: page.evaluate(condition))
