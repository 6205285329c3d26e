"""What is told when there is work: to the worker of the same process, and to those of others (worker/bell.py)."""

from enum import StrEnum
from typing import Protocol


class News(StrEnum):
    """The words are what other processes are told; one that does not know a word takes it as ANY."""

    ANY = ""  # items may start, batches stop, deliveries be due: whatever there is to be looked for
    FILE = "file"  # a batch was made whose items are in a file, which has to be read first


class Wake(Protocol):
    def __call__(self, news: News = News.ANY) -> None:
        """To be called after the commit: who is woken before finds nothing."""
