"""Search for keys by part of their purpose or access key.

The API has no such filter, so keys are read page by page, in order, until enough match or the time
of one page of the console is over. The result names how many keys were read, and where to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from keyauthority import clock
from keyauthority.aio import AsyncListing
from keyauthority.model import Key

MATCHES: Final = 50  # keys on one page
READ_SIZE: Final = 250  # keys of one call: some 15 ms
SEARCH_SECONDS: Final = 0.1  # a page of the console answers within 0.2 s


@dataclass
class Found:
    """A page of keys."""

    keys: list[Key] = field(default_factory=list)
    next_page_token: str = ""
    read: int = 0
    """Keys that were compared with the search text."""


def matches(key: Key, text: str) -> bool:
    """Return True if the text is part of the purpose or access key, in either case."""
    text = text.casefold()
    return text in key.purpose.casefold() or text in key.access_key.casefold()


async def search(listing: Callable[[int], AsyncListing[Key]], text: str, page_token: str) -> Found:
    """Return the next keys that match. `listing` lists keys with a page size."""
    end = clock.monotonic() + SEARCH_SECONDS
    found = Found()
    while True:
        asked = clock.monotonic()
        page = await listing(READ_SIZE).page(page_token)
        hits = [place for place, key in enumerate(page.items) if matches(key, text)]
        room = MATCHES - len(found.keys)
        if len(hits) > room:  # end the page behind the last key that is shown
            page = await listing(hits[room - 1] + 1).page(page_token)
        found.keys += [key for key in page.items if matches(key, text)]
        found.read += len(page.items)
        page_token = page.next_page_token
        now = clock.monotonic()
        if not page_token or len(found.keys) >= MATCHES or now + (now - asked) >= end:
            found.next_page_token = page_token
            return found
