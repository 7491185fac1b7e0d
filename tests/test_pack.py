import errno
import json
import os
import pickle
import signal
import subprocess
import sys
from threading import Timer

import pytest
import torch

from impasto.data import pack as module
from impasto.data.pack import PackedPhotos, pack, pack_folder
from impasto.data.photos import PhotoFiles, TrainingPhotos
from impasto.errors import UserError
from impasto.image import find_images

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
    assert sorted(path.name for path in packed.folder.parent.iterdir()) == [".lock", packed.folder.name]


def training(photos):
    return TrainingPhotos(photos, 32, 5, min_scale=0.3, colour=0.3, patches=0.3)


def test_samples_from_a_pack_are_the_unpacked_ones_to_the_bit(photos, make):
    packed, files = training(make()), training(PhotoFiles(find_images(photos), SIDE))
    assert all(torch.equal(packed[position], files[position]) for position in range(20))


def test_photos_are_packed_once_and_described(photos, make, monkeypatch):
    first = make()
    assert_whole(first, photos)
    assert min(first[0].shape[1:]) == SIDE
    manifest = json.loads((first.folder / "manifest.json").read_text())
    assert manifest["photos"][1][:2] == ["b.PNG", first[0].numel()]
    monkeypatch.setattr(module, "_make", None)
    assert_whole(make(), photos)


def test_spawned_workers_are_not_sent_the_pixels(make):
    packed = make()
    packed[0]
    sent = pickle.dumps(packed)
    assert len(sent) < 3000 < (packed.folder / "images.bin").stat().st_size
    assert torch.equal(pickle.loads(sent)[3], packed[3])


def test_unreadable_photos_are_recorded_and_left_out(photos, make, caplog):
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:700])
    (photos / "nowhere.png").symlink_to("gone.png")
    packed = make()
    assert not {"broken.jpg", "nowhere.png"} & {path.name for path in packed.paths}
    assert len(packed) == 6
    assert packed.rejects.keys() == {"broken.jpg", "nowhere.png"}
    assert "broken.jpg" in packed.rejects["broken.jpg"]
    caplog.clear()
    make()
    assert "broken.jpg" in caplog.text
    assert "skipped 2 of 8 images" in caplog.text


def test_nothing_readable_is_an_error(tmp_path, packs):
    (tmp_path / "a.jpg").write_text("")
    with pytest.raises(UserError, match="none of the 1 images"):
        pack([tmp_path / "a.jpg"], tmp_path, SIDE, packs / "pack")
    assert [path.name for path in packs.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt, KeyboardInterrupt),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), UserError),  # full meanwhile
    ],
)
def test_an_interrupted_pack_leaves_nothing(photos, packs, make, monkeypatch, error, raised):
    with monkeypatch.context() as patched, pytest.raises(raised):
        patched.setattr(module.os, "fsync", lambda _: (_ for _ in ()).throw(error))
        make()
    assert [path.name for path in packs.iterdir()] == [".lock"]
    assert_whole(make(), photos)


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
        Timer(0.3, (packs / "go").touch).start()
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


def test_too_little_space_is_said_before_anything_is_written(packs, make, monkeypatch):
    usage = module.shutil.disk_usage("/")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    with pytest.raises(
        UserError, match=r"has 20.0 kB free, packing 6 photos takes about \d\d.\d kB: data.packs="
    ) as error:
        make()
    assert "\n" not in str(error.value)
    assert [path.name for path in packs.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_named(make, packs):
    packs.write_text("a file")
    with pytest.raises(UserError, match="cannot pack into"):
        make()


def test_a_changed_source_belongs_in_another_pack(photos, packs):
    def place(short_side=SIDE):
        return pack_folder(packs, "mine", find_images(photos), photos, short_side)

    places = [place(), place(99)]
    assert place() == places[0]
    assert places[0].name.startswith("mine_58px_")
    os.utime(photos / "a.jpg", (1, 1))
    places.append(place())
    (photos / "a.jpg").rename(photos / "z.jpg")
    places.append(place())
    (photos / "z.jpg").unlink()
    places.append(place())
    assert len(set(places)) == len(places)
