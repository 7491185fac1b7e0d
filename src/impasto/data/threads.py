"""Many photos at once: in threads, as decoders let go of Python's lock, with the results in order."""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.progress import track

from impasto.limits import cores

Item = TypeVar("Item")
Result = TypeVar("Result")

MANY = 500  # photos: from here on it takes long enough for a progress bar


def in_order(
    function: Callable[[Item], Result], items: Collection[Item], description: str, done: int = 0
) -> Iterator[Result]:
    """What the function makes of each item, a few ahead of what is taken; `done` items came before, for the bar."""
    total = done + len(items)
    return iter(
        track(
            _ahead(function, items),
            description=description,
            total=total,
            completed=done,
            transient=True,
            disable=total < MANY,
        )
    )


def _ahead(function: Callable[[Item], Result], items: Collection[Item]) -> Iterator[Result]:
    threads = cores()
    ahead: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # at an error or Ctrl-C what is under way ends, and no more
