import hashlib
import zipfile
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from impasto.data import coco
from impasto.errors import UserError

from .conftest import noise_image


@pytest.fixture
def served(tmp_path):
    """A folder with two small archives as COCO's, and their checksums and sizes."""
    folder = tmp_path / "served"
    folder.mkdir()
    archives = {}
    for part, count in (("train2017", 5), ("val2017", 2)):
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for index in range(count):
                noise_image(60, 50, index).save(tmp_path / "x.jpg")
                archive.write(tmp_path / "x.jpg", f"{part}/{index:012d}.jpg")
        content = (folder / f"{part}.zip").read_bytes()
        archives[part] = (hashlib.md5(content).hexdigest(), len(content))
    return folder, archives


class Ranged(SimpleHTTPRequestHandler):
    """Answers `Range: bytes=N-`, as COCO's server does; `cut` bytes from the end are held back."""

    cut = 0
    asked: list[int] = []

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        type(self).asked.append(start)
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : len(content) - type(self).cut])


@pytest.fixture(autouse=True)
def _reset(monkeypatch):
    monkeypatch.setattr(coco, "CHUNK", 1000)  # the archives here are small
    Ranged.cut, Ranged.asked = 0, []


def test_both_parts_are_fetched_and_unpacked(served, serve, tmp_path):
    folder, archives = served
    coco.fetch(tmp_path / "coco", serve(folder, Ranged), archives)
    assert len(list((tmp_path / "coco" / "train2017").glob("*.jpg"))) == 5
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == ["train2017", "val2017"]


def test_a_cut_download_goes_on(served, serve, tmp_path):
    folder, archives = served
    url = serve(folder, Ranged)
    Ranged.cut = 1000
    with pytest.raises(UserError, match="goes on where it was"):
        coco.fetch(tmp_path / "coco", url, archives)
    partial = (tmp_path / "coco" / "train2017.zip.part").stat().st_size
    assert 0 < partial < archives["train2017"][1]
    Ranged.cut = 0
    coco.fetch(tmp_path / "coco", url, archives)
    assert Ranged.asked[:2] == [0, partial]
    assert len(list((tmp_path / "coco" / "train2017").glob("*.jpg"))) == 5


def test_a_server_without_ranges_starts_over(served, serve, tmp_path):
    folder, archives = served
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "val2017.zip.part").write_bytes(b"old")
    coco.fetch(tmp_path / "coco", serve(folder), archives)
    assert (tmp_path / "coco" / "val2017").is_dir()


def test_a_whole_part_is_not_fetched_again(served, serve, tmp_path):
    folder, archives = served
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "train2017.zip.part").write_bytes((folder / "train2017.zip").read_bytes())
    coco.fetch(tmp_path / "coco", serve(folder, Ranged), archives)
    assert (tmp_path / "coco" / "train2017").is_dir()


def test_damage_is_noticed_and_removed(served, serve, tmp_path):
    folder, archives = served
    content = bytearray((folder / "train2017.zip").read_bytes())
    content[300] ^= 1
    (folder / "train2017.zip").write_bytes(content)
    with pytest.raises(UserError, match="arrived damaged"):
        coco.fetch(tmp_path / "coco", serve(folder, Ranged), archives)
    assert not list((tmp_path / "coco").iterdir())


def test_paths_in_an_archive_lead_nowhere_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../evil.jpg", b"x")
        archive.writestr("/tmp/evil2.jpg", b"x")
    (tmp_path / "deep").mkdir()
    coco.unpack(tmp_path / "a.zip", tmp_path / "deep" / "photos")
    assert sorted(path.name for path in (tmp_path / "deep" / "photos").iterdir()) == ["evil.jpg", "evil2.jpg"]
    assert not (tmp_path / "evil.jpg").exists()


def test_an_interrupted_unpacking_leaves_no_folder(served, tmp_path, monkeypatch):
    folder, _ = served

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(coco.shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        coco.unpack(folder / "val2017.zip", tmp_path / "val2017")
    assert not (tmp_path / "val2017").exists()


def test_too_little_space_is_said_before_the_start(tmp_path):
    with pytest.raises(UserError, match="GB free"):
        coco.fetch(tmp_path / "coco", "http://127.0.0.1:1", {"train2017": ("0", 10**18)})


def test_no_server_is_one_line(tmp_path):
    with pytest.raises(UserError, match="stopped"):
        coco.fetch(tmp_path / "coco", "http://127.0.0.1:1", {"train2017": ("0", 10)})
