"""Ways in which files are damaged, by chance or on purpose; the same random numbers, the same damage."""

import copy
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Mutation = Callable[[bytearray, Random], None]

EXTREMES = (0, 1, 2, 4, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x10000, 2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
PNG = b"\x89PNG\r\n\x1a\n"


def mutated(content: bytes, other: bytes, random: Random) -> bytes:
    """Content damaged in one to four ways; `other` is what parts are taken from. A PNG's checksums mostly fit again."""
    damaged = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 2, 4))):
        if damaged.startswith(PNG) and random.random() < 0.4:
            _png_chunks(damaged, random)
        elif damaged.startswith((b"II*\0", b"MM\0*")) and random.random() < 0.4:
            _tiff_entry(damaged, random)
        elif other and random.random() < 0.1:
            _splice(damaged, other, random)
        else:
            random.choice(MUTATIONS)(damaged, random)
    if damaged.startswith(PNG) and random.random() < 0.8:
        damaged[:] = PNG + b"".join(_png_chunk(kind, body) for kind, body in _chunks(damaged))
    return bytes(damaged)


def flip(content: bytearray, random: Random) -> None:
    """A few bits."""
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if content:
            content[_place(content, random)] ^= 1 << random.randrange(8)


def extreme(content: bytearray, random: Random) -> None:
    """A number that is too small, too large or negative, of 1, 2, 4 or 8 bytes, in either order."""
    number = random.choice(EXTREMES)
    size, order = random.choice((1, 2, 2, 4, 4, 4, 8)), random.choice(("big", "little"))
    start = _place(content, random)
    content[start : start + size] = (number % 256**size).to_bytes(size, order)


def truncate(content: bytearray, random: Random) -> None:
    """Cut off at any place."""
    del content[random.randrange(len(content) + 1) :]


def insert(content: bytearray, random: Random) -> None:
    """Bytes more."""
    start = _place(content, random)
    content[start:start] = random.choice((random.randbytes(random.randrange(1, 40)), bytes(300), b"\xff" * 40))


def delete(content: bytearray, random: Random) -> None:
    """Bytes less."""
    start = _place(content, random)
    del content[start : start + random.choice((1, 2, 4, 16, 200))]


def repeat(content: bytearray, random: Random) -> None:
    """A part again, up to a thousand times."""
    start = _place(content, random)
    part = content[start : start + random.choice((1, 4, 12, 60, 400))]
    content[start:start] = part * random.choice((1, 2, 30, 1000 if len(part) < 60 else 3))


MUTATIONS: tuple[Mutation, ...] = (flip, flip, extreme, extreme, extreme, truncate, insert, delete, repeat)


def _place(content: bytearray, random: Random) -> int:
    """Anywhere, but as often as not in the first bytes, where headers are."""
    return random.randrange(min(len(content), random.choice((40, 200, len(content), len(content)))) or 1)


def _splice(content: bytearray, other: bytes, random: Random) -> None:
    """A part of another file over this one's."""
    start, length = random.randrange(len(other)), random.choice((4, 20, 200, len(other)))
    place = _place(content, random)
    content[place : place + random.choice((0, length))] = other[start : start + length]


def _png_chunks(content: bytearray, random: Random) -> None:
    """A chunk of a PNG left out, repeated, moved, renamed or with another number or length in it."""
    chunks = list(_chunks(content)) or [(b"IHDR", b"")]
    index = random.randrange(len(chunks))
    kind, body = chunks[index]
    match random.randrange(5):
        case 0:
            del chunks[index]
        case 1:
            chunks[index:index] = [chunks[index]] * random.choice((1, 2, 500))
        case 2:
            chunks.insert(random.randrange(len(chunks)), chunks.pop(index))
        case 3:
            names = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"zTXt", b"gAMA")
            chunks[index] = random.choice(names), body
        case _:
            changed = bytearray(body)
            random.choice((flip, extreme, extreme, truncate, insert))(changed, random)
            chunks[index] = kind, bytes(changed)
    content[:] = PNG + b"".join(_png_chunk(kind, body) for kind, body in chunks)


def _chunks(content: bytearray) -> Iterator[tuple[bytes, bytes]]:
    start = len(PNG)
    while start + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[start : start + 8])
        yield kind, bytes(content[start + 8 : start + 8 + length])
        start += 12 + length


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _tiff_entry(content: bytearray, random: Random) -> None:
    """A tag of a TIFF's first directory with another name, type, count or value."""
    order = "<" if content[:2] == b"II" else ">"
    try:
        (directory,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, directory)
        entry = directory + 2 + 12 * random.randrange(count or 1)
        place, size = random.choice(((0, 2), (2, 2), (4, 4), (8, 2), (8, 4)))
        number = random.choice((*EXTREMES, *range(13), random.randrange(256, 340), random.randrange(len(content))))
        struct.pack_into(order + {2: "H", 4: "I"}[size], content, entry + place, number % 256**size)
    except struct.error:  # it is damaged already
        flip(content, random)


def odd_record(record: dict[str, Any], random: Random) -> Any:
    """A record with one to three values that do not belong there, or without them."""
    odd: Any = copy.deepcopy(record)
    if random.random() < 0.05:
        return _odd_value(random)
    for _ in range(random.choice((1, 1, 2, 3))):
        within = odd
        while True:
            key = random.choice(list(within) or ["new"])
            if isinstance(within.get(key), dict) and random.random() < 0.7:
                within = within[key]
                continue
            break
        if random.random() < 0.15:
            within.pop(key, None)
        elif random.random() < 0.15:
            within[str(_odd_value(random))[:1000]] = _odd_value(random)
        else:
            within[key] = _odd_value(random)
    return odd


def _odd_value(random: Random) -> Any:
    deep: Any = []
    for _ in range(random.choice((10, 400))):
        deep = [deep]
    numbers = (0, 1, 2, 3, -1, 10**6, 10**9, 2**31, 2**63, 10**30, 2.5, 2.0, float("nan"), float("inf"), True, None)
    names = (
        "../../up",
        "/tmp/there",
        "a/b",
        "",
        ".",
        "..",
        "new\nline",
        "\0",
        "-rf",
        "x" * 300,
        "x" * 10**5,
        "é\u2028",
    )
    return random.choice((random.choice(numbers), random.choice(numbers), random.choice(names), [], {}, deep, ["a", 1]))
