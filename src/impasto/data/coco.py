"""COCO 2017: fetched with resume and checksum, unpacked whole or not at all."""

import logging
import os
import shutil
import zipfile
from pathlib import Path

import pooch
import requests
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn, track

from impasto.errors import UserError

log = logging.getLogger("impasto")

# by the bucket's path: the certificate of images.cocodataset.org does not fit its name
URL = "https://s3.amazonaws.com/images.cocodataset.org/zips"
ARCHIVES = {  # name: (MD5 as published, bytes)
    "train2017": ("cced6f7f71b7629ddf16f17bbcfab6b2", 19_336_861_798),
    "val2017": ("442b8da7639aecaf257c1dceb8ba8c80", 815_585_330),
}
CHUNK = 1 << 16  # bytes: what an interruption loses at most


def fetch(root: Path, url: str = URL, archives: dict[str, tuple[str, int]] = ARCHIVES) -> None:
    """Fetch and unpack COCO's training and validation photos into `root`; what is there already is kept.

    An interrupted download goes on where it stopped; a folder appears only when it is complete.
    Raises `UserError` if there is too little space, the server fails or a checksum is wrong.
    """
    root.mkdir(parents=True, exist_ok=True)
    for name, (md5, size) in archives.items():
        if (root / name).is_dir():
            log.info("%s is there already", root / name)
            continue
        archive = root / f"{name}.zip"
        if not archive.exists():
            _check_space(root, 2 * size - _size(_part(archive)))
            download(f"{url}/{name}.zip", archive, md5)
        unpack(archive, root / name)
        archive.unlink()
        log.info("Prepared %s", root / name)


def download(url: str, target: Path, md5: str) -> None:
    """Download to `target.part`, continuing what is there, and rename once the MD5 is right."""
    part = _part(target)
    try:
        with requests.get(url, headers={"Range": f"bytes={_size(part)}-"}, stream=True, timeout=30) as response:
            if response.status_code != requests.codes.requested_range_not_satisfiable:  # else all of it is there
                response.raise_for_status()
                resumed = response.status_code == requests.codes.partial_content
                _receive(response, part, "ab" if resumed else "wb", target.name)
    except requests.RequestException as error:
        raise UserError(f"the download of {url} stopped ({error}): the same command goes on where it was") from None
    if pooch.file_hash(str(part), alg="md5") != md5:
        part.unlink()
        raise UserError(f"{url} arrived damaged (its MD5 is not {md5}) and was removed: try again")
    part.replace(target)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the images of `archive`, flat, into `folder`, which appears when it is complete."""
    unpacking = folder.with_name(f".{folder.name}")
    shutil.rmtree(unpacking, ignore_errors=True)
    unpacking.mkdir()
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if member.filename.endswith(".jpg")]
            for member in track(members, description=f"Unpacking {archive.name}", transient=True):
                # by name alone: a path in the archive leads nowhere else
                with content.open(member) as source, (unpacking / Path(member.filename).name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except zipfile.BadZipFile as error:
        raise UserError(f"{str(archive)!r} is damaged ({error}): remove it and try again") from None
    unpacking.replace(folder)


def _receive(response: requests.Response, part: Path, mode: str, name: str) -> None:
    total = int(response.headers.get("Content-Length", 0)) + (_size(part) if mode == "ab" else 0)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, part.open(mode) as file:
        task = progress.add_task(name, total=total or None, completed=file.tell())
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            progress.advance(task, len(chunk))


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise UserError(
            f"{os.fspath(root)!r} has {free / 1e9:.0f} GB free; archive and photos take {needed / 1e9:.0f} GB"
        )
