"""Large downloads: from several places, resumed where they stopped, and kept only with the right SHA-256."""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import requests
from requests.adapters import HTTPAdapter
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from urllib3 import BaseHTTPResponse, HTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from impasto.errors import UserError, one_line
from impasto.files import write_text

log = logging.getLogger("impasto")

TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces
SLOWEST = 1000.0, 60.0  # bytes per second: slower than this for so many seconds counts as stalled
PIECE = 1 << 20  # bytes, at most
LONGEST_WAIT = 60  # s, between tries


class _Retry(Retry):
    """Waits as a server asks to, but not for hours while another mirror may have the file; says for what it waits."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Seconds."""
        asked = super().get_retry_after(response)
        if asked is None:
            return None
        wait = min(asked, LONGEST_WAIT)
        log.info("the server answers %d and asks to wait: %.0f s", response.status, wait)
        return wait


# 1, 2, 4 … seconds between tries; of tries in a row with less than a piece more
RETRIES = _Retry(5, backoff_factor=1, backoff_max=LONGEST_WAIT, status_forcelist=(408, 425, 429, 500, 502, 503, 504))


class _Refused(Exception):
    """What a server answers cannot be, or become, the file: there is no use in asking it again."""


def download(urls: Sequence[str], target: Path, sha256: str, size: int, *, insecure: bool = False) -> None:
    """Fetch `size` bytes with this SHA-256 to `target`, from the first of the URLs that has them.

    What there is in `target.part` is gone on from. All URLs, and what they redirect to, are https, unless `insecure`.
    Raises `UserError` if none has the file; what has come so far is kept, unless it is wrong.
    """
    part, session = target.with_name(f"{target.name}.part"), _session(insecure)
    for url in urls:
        if not insecure and not url.startswith("https://"):
            raise UserError(f"{url} is not https: take another mirror, or insecure=true, as the SHA-256 is checked")
    if target.exists():
        if _hash(target, size) != sha256:
            raise UserError(f"{str(target)!r} is another file (its SHA-256 is not {sha256}): remove it, and try again")
        return
    reasons: list[str] = []
    for url in urls:
        if reasons:
            log.warning("%s; trying the next", reasons[-1])
        try:
            if _size(part) != size:
                _complete(session, url, part, size)
            if _hash(part, size) != sha256:
                part.unlink()
                _note(part).unlink(missing_ok=True)
                raise _Refused(f"it arrived damaged (its SHA-256 is not {sha256}) and was removed")
        except (_Refused, requests.RequestException, HTTPError) as error:
            reasons.append(f"{url}: {_reason(error)}")
            continue
        _note(part).unlink(missing_ok=True)
        part.replace(target)
        return
    raise UserError(f"the download stopped ({reasons[-1]}): the same command goes on where it was; url= takes mirrors")


def _session(insecure: bool) -> requests.Session:
    """A session that retries, and speaks nothing but https: a redirect to http ends there."""
    session = requests.Session()
    if not insecure:
        del session.adapters["http://"]
    for scheme in list(session.adapters):
        session.mount(scheme, HTTPAdapter(max_retries=RETRIES))
    return session


def _complete(session: requests.Session, url: str, part: Path, size: int) -> None:
    """Fetch what `part` lacks; where the connection ends early it is taken up again, as long as that gets further."""
    retries = RETRIES
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(part.stem, total=size)
        while True:
            before = _size(part)
            try:
                _receive(session, url, part, size, lambda done: progress.update(task, completed=done))
                return
            except HTTPError as error:  # within the body: all else the session has tried again already
                got_further = _size(part) >= before + PIECE
                retries = RETRIES if got_further else retries.increment("GET", url, error=error)
                log.info("%s: %s; going on at %d bytes", url, _reason(error), _size(part))
                retries.sleep()


def _receive(session: requests.Session, url: str, part: Path, size: int, show: Callable[[int], None]) -> None:
    """One request for the rest of the file, written to `part`. Raises `_Refused`, or what the connection raises."""
    there = _size(part)
    if there > size:
        part.unlink()
        there = 0
    headers = {"Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
        if version := _version(part, url):
            headers["If-Range"] = version  # a file that has changed since comes from its start
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException:
        raise
    except (OSError, ValueError) as error:  # of REQUESTS_CA_BUNDLE; of a redirect to what is no address
        raise _Refused(one_line(error)) from None
    with response:
        if response.status_code not in (200, 206):
            raise _Refused(f"it answers {response.status_code} {response.reason}")
        start, total = _extent(response)
        if total != size:
            raise _Refused(
                f"it has {total} bytes, not {size}" if total is not None else "it does not say how long it is"
            )
        if start not in (0, there):
            raise _Refused(f"asked for the bytes from {there} on, it sends those from {start}")
        if there and not start:
            log.info("%s: from the start, as it does not go on or has changed", url)
        remember = {"url": url, "version": _strong_version(response)}
        with part.open("r+b" if start else "wb") as file:
            write_text(_note(part), json.dumps(remember))
            file.seek(start)
            _write(response.raw, file, size, show)


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """The first byte that an answer sends, and how many the whole file has, if it says so."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
        if match is None or int(match[2]) + 1 != int(match[3]):
            raise _Refused("it sends a part of the file without saying which, or another than asked for")
        return int(match[1]), int(match[3])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _write(stream: HTTPResponse, file: BinaryIO, size: int, show: Callable[[int], None]) -> None:
    """Copy what comes, `size` bytes in the file at most. Raises `HTTPError` where it ends or stalls before."""
    (slowest, seconds), since, mark = SLOWEST, time.monotonic(), file.tell()
    while (done := file.tell()) < size:
        piece = stream.read1(min(PIECE, size - done))
        if not piece:
            raise HTTPError(f"the connection ended at {done} of {size} bytes")
        file.write(piece)
        file.flush()  # the progress shown is on disk
        show(done + len(piece))
        if (now := time.monotonic()) - since > seconds:
            if file.tell() - mark < slowest * (now - since):
                raise HTTPError(f"it sends less than {slowest:g} bytes per second")
            since, mark = now, file.tell()


def _strong_version(response: requests.Response) -> str | None:
    """The tag by which a server tells versions of a file apart to the byte, or the date of its last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _version(part: Path, url: str) -> str | None:
    """The version that `part` is of, if it came from this URL: other servers have other names for it."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        note = json.loads(_note(part).read_text(encoding="utf-8"))
        if note["url"] == url and isinstance(note["version"], str):
            return note["version"]
    return None


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _hash(path: Path, size: int) -> str:
    if _size(path) != size:
        return ""
    if size > 1 << 30:
        log.info("Checking the SHA-256 of %s", path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    if isinstance(error, requests.exceptions.InvalidSchema):
        socks = "SOCKS" in str(error)  # of a proxy that the environment names
        return "a SOCKS proxy takes pip install pysocks" if socks else "it leads to an address that is not https"
    # without the connection pool's name; of requests' errors in what they are made of, of urllib3's in themselves
    cause = getattr(error.args[0] if error.args else None, "reason", None) or getattr(error, "reason", None)
    return one_line(cause or error)
