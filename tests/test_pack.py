import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from impasto.data import pack as module
from impasto.data.pack import PackedPhotos, pack, pack_folder
from impasto.data.photos import PhotoFiles, TrainingPhotos
from impasto.data.scan import folder_key, lock_of, scan
from impasto.errors import UserError
from impasto.image import find_images

from .conftest import noise_image, when_told

SIDE = 58  # px


@pytest.fixture
def packs(tmp_path):
    return tmp_path / "packs"


@pytest.fixture
def make(photos, packs):
    def make(name="pack"):
        return pack(find_images(photos), photos, SIDE, packs / name)

    return make


def assert_whole(packed, photos):
    files = PhotoFiles(packed.paths, SIDE)
    assert packed.paths == find_images(photos)
    assert all(torch.equal(packed[index], files[index]) for index in range(len(files)))
    assert sorted(path.name for path in packed.folder.parent.iterdir()) == [lock_of(photos), packed.folder.name]


def training(photos):
    return TrainingPhotos(photos, 32, 5, min_scale=0.3, colour=0.3, patches=0.3)


def test_samples_from_a_pack_are_the_unpacked_ones_to_the_bit(photos, make):
    packed, files = training(make()), training(PhotoFiles(find_images(photos), SIDE))
    assert all(torch.equal(packed[position], files[position]) for position in range(20))


def test_photos_are_packed_once_and_described(photos, make, monkeypatch):
    first = make()
    assert_whole(first, photos)
    assert min(first[0].shape[1:]) == SIDE
    _, _, second, *_ = map(json.loads, (first.folder / "photos.jsonl").read_text().splitlines())
    assert (second["name"], second["place"][0]) == ("b.PNG", first[0].numel())
    monkeypatch.setattr(module, "_make", None)
    assert_whole(make(), photos)


def test_spawned_workers_are_not_sent_the_pixels(make):
    packed = make()
    packed[0]
    sent = pickle.dumps(packed)
    assert len(sent) < 3000 < (packed.folder / "images.bin").stat().st_size
    assert torch.equal(pickle.loads(sent)[3], packed[3])


@pytest.mark.skipif(os.name != "posix", reason="elsewhere no file goes that is open")
def test_a_pack_that_goes_or_is_made_anew_before_it_is_read_lives_on(photos, make):
    """Read with the index of the old one, the new one's photos counted as damaged."""
    (photos / "0.png").write_bytes(b"not yet whole")
    before = make()
    expected = PhotoFiles(before.paths, SIDE)
    noise_image(70, 50).save(photos / "0.png")
    assert len(make()) == len(before) + 1
    shutil.rmtree(before.folder)
    assert all(torch.equal(before[index], expected[index]) for index in range(len(before)))
    with pytest.raises(UserError, match="is no whole pack .*No such file"):  # as a spawned worker would
        pickle.loads(pickle.dumps(before))[0]


def test_what_a_look_finds_is_recorded_as_a_scan_finds_it(photos, make):
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:700])
    (photos / "nowhere.png").symlink_to("gone.png")
    noise_image(70, 70).convert("L").save(photos / "grey.jpg")
    packed = make()
    assert not {"broken.jpg", "nowhere.png"} & {path.name for path in packed.paths}
    assert len(packed) == 7
    assert packed.photos == scan(find_images(photos), photos, photos)
    assert [photo.name for photo in packed.photos if photo.problem] == ["broken.jpg", "nowhere.png"]


def test_nothing_readable_is_an_error(tmp_path, packs):
    (tmp_path / "a.jpg").write_text("")
    with pytest.raises(UserError, match="none of the 1 images"):
        pack([tmp_path / "a.jpg"], tmp_path, SIDE, packs / "pack")
    assert [path.name for path in packs.iterdir()] == [lock_of(tmp_path)]


def interrupt(patched, error):
    """Let the third photo be the last one looked at."""
    looked, look = [], module.look

    def look_at_three(*arguments):
        looked.append(arguments[0])
        if len(looked) > 3:
            raise error
        return look(*arguments)

    patched.setattr(module, "look", look_at_three)


def test_a_full_disk_leaves_nothing(photos, packs, make, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(UserError, match="cannot pack into .*: No space"):
        patched.setattr(module, "_check_space", lambda *_: None)
        interrupt(patched, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        make()
    assert [path.name for path in packs.iterdir()] == [lock_of(photos)]
    assert_whole(make(), photos)


@pytest.mark.parametrize("damage", [None, "torn line", "hole", "shorter", "other size"])
def test_an_interrupted_pack_is_gone_on_with_where_it_is_whole(photos, packs, make, monkeypatch, caplog, damage):
    caplog.set_level("INFO")
    monkeypatch.setattr(module, "_check_space", lambda *_: None)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, KeyboardInterrupt)
        make()
    half = packs / ".pack.packing"
    if damage == "torn line":
        os.truncate(half / "photos.jsonl", (half / "photos.jsonl").stat().st_size - 1)
    elif damage == "hole":
        with (half / "images.bin").open("r+b") as file:
            file.write(bytes(1000))
    elif damage == "shorter":
        os.truncate(half / "images.bin", (half / "images.bin").stat().st_size - 1)
    elif damage == "other size":
        (half / "photos.jsonl").write_text('{"format": 2, "short_side": 57}\n')
    looked, look = [], module.look
    monkeypatch.setattr(module, "look", lambda *arguments: (looked.append(arguments[0]), look(*arguments))[1])
    packed = make()
    kept = {None: 3, "torn line": 2, "hole": 0, "shorter": 2, "other size": 0}[damage]
    assert len(looked) == 6 - kept
    assert (f"{kept} of 6 photos are packed" in caplog.text) == bool(kept)
    assert_whole(packed, photos)
    shutil.move(packed.folder, packs / "resumed")
    whole = make()  # at once
    for name in ("images.bin", "photos.jsonl", "manifest.json"):
        assert (whole.folder / name).read_bytes() == (packs / "resumed" / name).read_bytes()


def test_what_these_photos_left_half_done_is_removed_and_nothing_of_others(photos, packs, tmp_path):
    """Own folders all have one name in the configuration, and are told apart by their places."""
    (tmp_path / "others").mkdir()
    noise_image(70, 70).save(tmp_path / "others" / "a.jpg")
    other, here = (pack_folder(packs, "folder", find_images(root), root, 32) for root in (tmp_path / "others", photos))
    before = here.with_name(here.name[:-8] + "01234567")
    halves = [module.packing(folder) for folder in (other, before, here.with_name(here.name.replace("32px", "64px")))]
    for half in halves:
        half.mkdir(parents=True)
    pack(find_images(photos), photos, 32, here)
    left = {path.name for path in packs.iterdir()}
    assert left == {halves[0].name, halves[2].name, here.name, lock_of(photos)}


CHILD = """
import os, signal, sys, time
from pathlib import Path
from impasto.data import pack as module
from impasto.image import find_images

photos, packs = Path(sys.argv[1]), Path(sys.argv[2])
write_images = module._write_images

def write_slowly(*arguments):
    print("packing", flush=True)
    manifest = write_images(*arguments)
    while not (packs / "go").exists():
        time.sleep(0.01)
    if "killed" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    return manifest

module._write_images = write_slowly
module.pack(find_images(photos), photos, 58, packs / "pack")
"""


def child(photos, packs, *words):
    command = [sys.executable, "-c", CHILD, str(photos), str(packs), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_pack_is_not_taken_for_whole(photos, packs, make):
    packs.mkdir()
    (packs / "go").touch()
    killed = child(photos, packs, "killed")
    assert killed.communicate(timeout=60)[0] == "packing\n"
    assert killed.returncode == -signal.SIGKILL
    assert (packs / ".pack.packing" / "images.bin").stat().st_size > 0
    assert not (packs / "pack").exists()
    (packs / "go").unlink()
    assert_whole(make(), photos)


def test_of_two_processes_one_packs_and_the_other_waits(photos, packs, make, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(module, "_write_images", None)
    with child(photos, packs) as other:
        assert other.stdout.readline() == "packing\n"
        when_told(caplog, "Waiting for another process", (packs / "go").touch)
        packed = make()
    assert "Waiting for another process" in caplog.text
    (packs / "go").unlink()
    assert_whole(packed, photos)


def test_a_truncated_pack_is_made_anew(photos, make, caplog):
    images = make().folder / "images.bin"
    os.truncate(images, images.stat().st_size - 1)
    assert_whole(make(), photos)
    assert "packing it anew" in caplog.text


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"format": 99}', None])
def test_a_folder_that_is_no_pack_is_replaced(photos, packs, make, caplog, manifest):
    (packs / "pack").mkdir(parents=True)
    if manifest is not None:
        (packs / "pack" / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match="no whole pack"):
        PackedPhotos(packs / "pack", photos)
    assert_whole(make(), photos)
    assert "packing it anew" in caplog.text


def test_photos_that_can_be_read_by_now_have_the_pack_made_anew(photos, make, caplog):
    """As after `pip install` of what reads them, or on a disk that is back: the files are the same."""
    whole = (photos / "b.PNG").read_bytes()
    (photos / "b.PNG").write_bytes(whole[:100])
    assert len(make()) == len(find_images(photos)) - 1
    assert len(make()) == len(find_images(photos)) - 1
    assert "packing it anew" not in caplog.text
    (photos / "b.PNG").write_bytes(whole)
    assert_whole(make(), photos)
    assert "b.PNG' could not be read for" in caplog.text


def test_a_flipped_byte_costs_one_photo(photos, make, caplog):
    packed = make()
    with (packed.folder / "images.bin").open("r+b") as file:
        file.seek(packed[0].numel() + 100)  # in the second
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    packed = make()
    with pytest.raises(UserError, match="b.PNG"):
        packed[1]
    dataset = training(packed)
    assert all(dataset[position].shape == (3, 32, 32) for position in range(6))
    assert caplog.text.count("skipped") == 1
    assert "b.PNG" in caplog.text


def test_too_little_space_is_said_before_anything_is_written(photos, packs, make, monkeypatch):
    usage = module.shutil.disk_usage("/")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    with pytest.raises(
        UserError, match=r"has 20.0 kB free, packing 6 photos takes about \d\d.\d kB: data.packs="
    ) as error:
        make()
    assert "\n" not in str(error.value)
    assert [path.name for path in packs.iterdir()] == [lock_of(photos)]


def test_a_folder_that_cannot_be_written_is_named(make, packs):
    packs.write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        make()


def test_a_changed_source_belongs_in_another_pack(photos, packs):
    def place(short_side=SIDE):
        return pack_folder(packs, "mine", find_images(photos), photos, short_side)

    places = [place(), place(99)]
    assert place() == places[0]
    assert places[0].name.startswith(f"mine_{folder_key(photos)}_58px_")
    os.utime(photos / "a.jpg", (1, 1))
    places.append(place())
    (photos / "a.jpg").rename(photos / "z.jpg")
    places.append(place())
    (photos / "z.jpg").unlink()
    places.append(place())
    assert len(set(places)) == len(places)
