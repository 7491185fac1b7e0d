import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from filelock import FileLock
from urllib3.util import Retry

from impasto.commands import fetch_coco
from impasto.data import coco, download, pack
from impasto.data.content import ContentDataModule
from impasto.data.pack import PackedPhotos
from impasto.data.photos import PhotoFiles
from impasto.errors import UserError

from .conftest import noise_image

PARTS = {"train2017": 7, "val2017": 2, "train2014": 3}  # photos


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder with small archives as COCO's, and their checksums and sizes."""
    folder = tmp_path_factory.mktemp("served")
    archives = {}
    for part, count in PARTS.items():
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            archive.writestr(f"{part}/", b"")
            for index in range(count):
                noise_image(60, 50, index + 10 * list(PARTS).index(part)).save(folder / "x.jpg")
                archive.write(folder / "x.jpg", f"{part}/{index:012d}.jpg")
        (folder / "x.jpg").unlink()
        content = (folder / f"{part}.zip").read_bytes()
        archives[part] = coco.Archive(hashlib.sha256(content).hexdigest(), len(content), count)
    return folder, archives


@pytest.fixture
def fetch(served, serve, tmp_path):
    """Fetch from a server into tmp_path/coco."""
    url = serve(served[0])

    def fetch(*parts, urls=(url,), **options):
        parts = parts or ("train2017", "val2017")
        coco.fetch(tmp_path / "coco", parts, urls, insecure=True, archives=served[1], **options)

    return fetch


@pytest.fixture
def root(tmp_path):
    return tmp_path / "coco"


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def assert_unpacked(root, served, part):
    with zipfile.ZipFile(served[0] / f"{part}.zip") as archive:
        photos = {Path(name).name: archive.read(name) for name in archive.namelist() if name.endswith(".jpg")}
    assert {path.name: path.read_bytes() for path in (root / part).glob("*.jpg")} == photos


def test_the_checksums_are_sha256_and_the_archives_fit_their_photos():
    for archive in coco.ARCHIVES.values():
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert 150_000 < archive.size / archive.photos < 170_000  # bytes a photo
    assert coco.URL.startswith("https://")


def test_both_parts_are_fetched_unpacked_and_looked_at(fetch, root, served, monkeypatch):
    fetch()
    assert names(root) == ["train2017", "val2017"]
    assert_unpacked(root, served, "train2017")
    monkeypatch.setattr("impasto.data.scan.look", None)  # training does not look again
    data = ContentDataModule(
        "coco", root / "train2017", 64, validation_root=root / "val2017", image_size=32, packs=root / "packs"
    )
    assert (len(data.training), len(data.validation), data.rejects) == (7, 2, [])


def test_other_parts_by_name(fetch, root, served):
    fetch("train2014", "train2014")  # said twice, fetched once
    assert names(root) == ["train2014"]
    with pytest.raises(UserError, match="parts=train2015 is unknown: there are train2017, val2017"):
        fetch("train2015")


def test_training_photos_go_straight_into_a_pack(fetch, root, served):
    fetch(short_side=40)
    assert names(root) == ["train2017", "val2017"]
    assert names(root / "train2017") == ["images.bin", "manifest.json", "photos.jsonl"]
    assert_unpacked(root, served, "val2017")
    data = ContentDataModule("coco", root / "train2017", 1, validation_root=root / "val2017", image_size=20)
    with zipfile.ZipFile(served[0] / "train2017.zip") as archive:
        archive.extractall(root / "unpacked")
    files = PhotoFiles(sorted((root / "unpacked" / "train2017").iterdir()), 40)
    assert len(data.training) == 7
    assert all(torch.equal(data.photos()[index], files[index]) for index in range(7))


def test_what_is_there_is_kept_and_needs_no_server(fetch, root):
    fetch()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")}
    (root / ".train2017.zip").write_bytes(b"left by a process that was killed before removing it")
    fetch(urls=["http://127.0.0.1:1"])
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.jpg")} == before
    assert names(root) == ["train2017", "val2017"]


def test_what_is_there_in_another_form_is_not_taken_for_what_is_asked_for(fetch, root):
    nowhere = {"urls": ["http://127.0.0.1:1"]}
    fetch("train2017", short_side=40)
    fetch("train2017", short_side=40, **nowhere)
    with pytest.raises(UserError, match=r"train2017' is there as a pack of 40 px, not a pack of 50 px: remove the fol"):
        fetch("train2017", short_side=50, **nowhere)
    with pytest.raises(UserError, match=r"train2017' is there as a pack of 40 px, not photos: remove the folder"):
        fetch("train2017", **nowhere)
    (root / "train2017" / "images.bin").unlink()
    with pytest.raises(UserError, match=r"train2017' is no whole pack .*: remove the folder to have it fetched anew"):
        fetch("train2017", short_side=40, **nowhere)
    shutil.rmtree(root / "train2017")
    fetch("train2017")
    with pytest.raises(UserError, match=r"train2017' is there as photos, not a pack of 40 px"):
        fetch("train2017", short_side=40, **nowhere)


def test_an_archive_that_is_there_is_checked_used_and_kept(fetch, root, served):
    root.mkdir()
    given = root / "train2017.zip"
    given.write_bytes(b"another")
    with pytest.raises(UserError, match="is another file"):
        fetch("train2017", urls=["http://127.0.0.1:1"])
    shutil.copy(served[0] / "train2017.zip", given)
    fetch("train2017", urls=["http://127.0.0.1:1"])
    assert_unpacked(root, served, "train2017")
    assert names(root) == ["train2017", "train2017.zip"]


def test_mirrors_are_tried_in_turn(fetch, root, serve, tmp_path, served, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", Retry(0))
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "train2017.zip").write_bytes(os.urandom(served[1]["train2017"].size))
    good = serve(served[0])
    fetch(urls=["http://127.0.0.1:1", serve(tmp_path / "wrong"), good])
    assert_unpacked(root, served, "train2017")


@pytest.mark.parametrize("short_side", [None, 40])
@pytest.mark.parametrize("at", [1, 4, 7, 8])
def test_interrupted_anywhere_it_goes_on(fetch, root, served, monkeypatch, short_side, at):
    """Ctrl-C at the n-th of the nine photos, seven of them for training."""
    fetch(short_side=short_side)
    shutil.move(root, root.parent / "whole")
    looked, look = [], coco.look

    def interrupted(*arguments, **options):
        looked.append(arguments)
        if len(looked) == at:
            raise KeyboardInterrupt
        return look(*arguments, **options)

    for module in (coco, pack):
        monkeypatch.setattr(module, "look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(short_side=short_side)
    assert (root / "train2017").exists() == (at == 8)
    fetch(short_side=short_side)
    assert names(root) == ["train2017", "val2017"]
    for path in (root.parent / "whole").rglob("*.*"):
        if path.is_file() and not path.name.startswith("."):
            assert (root / path.relative_to(root.parent / "whole")).read_bytes() == path.read_bytes()


def test_a_half_written_photo_is_written_anew(fetch, root, served):
    half = root / ".train2017.unpacking"
    half.mkdir(parents=True)
    (half / f"{0:012d}.jpg").write_bytes(b"half")
    fetch()
    assert_unpacked(root, served, "train2017")


CHILD = """
import json, sys
from impasto.commands import fetch_coco
from impasto.data import coco
coco.ARCHIVES.update({name: coco.Archive(*values) for name, values in json.loads(sys.argv.pop(1)).items()})
fetch_coco.main()
"""


def test_the_command_killed_in_mid_download_goes_on(served, serve, root):
    killed = threading.Event()

    class Slow(SimpleHTTPRequestHandler):
        def do_GET(self):
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:4000])
            if self.path == "/train2017.zip":
                killed.wait(60)
            self.wfile.write(content[4000:])

    archives = json.dumps({name: [one.sha256, one.size, one.photos] for name, one in served[1].items()})
    words = [f"root={root}", f"url={serve(served[0], Slow)}", "insecure=true", "pack=40"]
    child = subprocess.Popen([sys.executable, "-c", CHILD, archives, *words], stdout=subprocess.DEVNULL)
    part = root / ".train2017.zip.part"
    while child.poll() is None and not (part.exists() and part.stat().st_size == 4000):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    killed.set()
    assert names(root) == [".train2017.zip.part", ".train2017.zip.part.json"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "sleep", lambda _: None)
        for name, archive in served[1].items():
            patched.setitem(coco.ARCHIVES, name, archive)
        fetch_coco.fetch_coco(words)
    assert len(PackedPhotos(root / "train2017", root)) == 7
    assert_unpacked(root, served, "val2017")


def zipped(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def link(name):
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o120777 << 16
    return member


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "members",
    [
        [("../../evil.jpg", b"x")],
        [("/tmp/evil.jpg", b"x")],
        [("val2017/../../evil.jpg", b"x")],
        [("val2017/..\\evil.jpg", b"x")],
        [("val2017/C:evil.jpg", b"x")],
        [("val2017/.jpg", b"x")],
        [("val2017/a.exe", b"x")],
        [("val2018/a.jpg", b"x")],
        [(link("val2017/a.jpg"), b"/etc/passwd")],
        [("val2017/a.jpg", b"x"), ("val2017/a.jpg", b"y")],
        [("val2017/a.jpg", bytes(10_000_000))],
    ],
)
def test_what_is_no_photo_is_refused(tmp_path, members):
    path = zipped(tmp_path / "val2017.zip", *members)
    with pytest.raises(UserError, match="nothing is unpacked"):
        coco.unpack(path, tmp_path / "val2017")
    assert names(tmp_path) == [".val2017.unpacking", "val2017.zip"]
    assert not names(tmp_path / ".val2017.unpacking")


def photo(tmp_path):
    noise_image(40, 40).save(tmp_path / "x.jpg")
    return (tmp_path / "x.jpg").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:300] + bytes([content[300] ^ 1]) + content[301:],  # a flipped bit: the CRC
        lambda content: content[:-30],  # no end
        lambda content: b"",
    ],
)
def test_a_damaged_archive_is_one_line(tmp_path, damage):
    path = zipped(tmp_path / "val2017.zip", ("val2017/a.jpg", photo(tmp_path)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="is damaged .*remove it") as error:
        coco.unpack(path, tmp_path / "val2017")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "val2017").exists()


def test_an_encrypted_archive_is_refused(tmp_path):
    path = zipped(tmp_path / "val2017.zip", ("val2017/a.jpg", photo(tmp_path)))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="nothing is unpacked"):
        coco.unpack(path, tmp_path / "val2017")


@pytest.mark.parametrize("size", [10, 5_000_000_000])
def test_a_size_that_lies_is_damage(tmp_path, size):
    path = zipped(tmp_path / "val2017.zip", ("val2017/a.jpg", photo(tmp_path)))
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (size % 2**32).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged|nothing is unpacked"):
        coco.unpack(path, tmp_path / "val2017")
    assert not (tmp_path / "val2017").exists()


@pytest.mark.parametrize(
    ("short_side", "needed"),
    [(None, 2 * 19_336_861_798 + 118_287 * 4096), (320, 19_336_861_798 + 118_287 * 320 * 320 * 4)],
)
def test_too_little_space_for_all_of_it_is_said_before_the_start(root, monkeypatch, short_side, needed):
    usage = shutil.disk_usage("/")

    def fetch(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
        coco.fetch(root, ["train2017"], ["http://127.0.0.1:1"], short_side=short_side)

    with pytest.raises(UserError, match="has .* free, and fetching train2017 takes .* at once"):
        fetch(needed - 1)
    with pytest.raises(UserError, match="is not https"):  # the next thing to be wrong
        fetch(needed)
    root.joinpath(".train2017.zip.part").write_bytes(bytes(1000))
    with pytest.raises(UserError, match="is not https"):
        fetch(needed - 1000)


@pytest.mark.parametrize(
    ("short_side", "other", "same"), [(None, "packing", "unpacking"), (40, "unpacking", "packing")]
)
def test_what_was_begun_the_other_way_makes_room(root, monkeypatch, short_side, other, same):
    usage = shutil.disk_usage("/")
    for name in (other, same):
        (root / f".train2017.{name}").mkdir(parents=True)
        (root / f".train2017.{name}" / "content").write_bytes(bytes(10**6))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    with pytest.raises(UserError, match="has 1.0 MB free, and fetching train2017 takes"):
        coco.fetch(root, ["train2017"], ["http://127.0.0.1:1"], short_side=short_side)
    assert [path.name for path in root.glob(".train2017.*")] == [f".train2017.{same}"]


def test_a_folder_that_lacks_photos_is_not_taken_for_all_of_them(root):
    """As an unpacking by hand leaves it, once it was stopped."""
    (root / "val2017").mkdir(parents=True)
    (root / "val2017" / "000000000139.jpg").touch()
    with pytest.raises(UserError, match="val2017' has 1 of 5,000 photos: remove it to have it fetched anew"):
        coco.fetch(root, ["val2017"], ["http://127.0.0.1:1"])


def test_one_process_at_a_time(fetch, root):
    root.mkdir()
    with FileLock(root / ".lock"), pytest.raises(UserError, match="another process is fetching"):
        fetch()


def test_a_full_disk_is_one_line_that_says_where(root, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as writing to an open file raises it: without a name
    monkeypatch.setattr(coco, "_check_space", Mock(side_effect=full))
    with pytest.raises(UserError, match="cannot fetch into '.*coco.*': No space left on device; the same command goes"):
        fetch_coco.fetch_coco([f"root={root}"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pack=5"], "pack=5 should be in 16…640 px"),
        (["parts=train2015"], "parts=train2015 is unknown"),
        (["parts=val2017", "url=http://127.0.0.1:1"], "http://127.0.0.1:1/val2017.zip is not https"),
        (["pack=large"], "'pack=large' does not do"),
        (["parts=val2017", "pack=320"], "pack=320 is of photos to learn from: parts=val2017 has none"),
    ],
)
def test_wrong_words_are_one_line(root, words, line, monkeypatch):
    monkeypatch.setattr(coco, "_check_space", lambda *_: None)
    with pytest.raises(UserError, match=re.escape(line)):
        fetch_coco.fetch_coco([f"root={root}", *words])


def test_coco_counts_as_prepared_when_both_parts_are_there(tmp_path):
    (tmp_path / "train2017").mkdir()
    assert not coco.prepared_coco(tmp_path)
    (tmp_path / "val2017").mkdir()
    assert coco.prepared_coco(tmp_path)
