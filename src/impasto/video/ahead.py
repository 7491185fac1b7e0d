"""Decoding, painting and encoding at once: each a generator of the one before, in a thread of its own."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

Item = TypeVar("Item")

AHEAD = 2  # items ready or in the making: enough for steps of uneven length, few enough for frames of 8K


def ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The same items in the same order, of which the next `AHEAD` are made in a thread while one is used.

    What `items` raises is raised in its place. To close this one stops the thread and closes `items`.
    """
    end = object()
    with closing(items), ThreadPoolExecutor(1) as thread:  # the thread ends before its generator is closed
        pending = deque(thread.submit(next, items, end) for _ in range(AHEAD))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]  # which is no end
        finally:
            for future in pending:
                future.cancel()
