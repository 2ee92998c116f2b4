"""Code that tests share: fakes, makers of media and rows, processes, and a Kafka broker."""

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
