import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from impasto.data import content as module
from impasto.data import pack as pack_module
from impasto.data.content import ContentDataModule
from impasto.data.pack import pack
from impasto.data.photos import PhotoFiles, side_at
from impasto.data.scan import short_key
from impasto.errors import UserError
from impasto.image import find_images

from .conftest import noise_image


def test_photos_are_held_out_of_a_folder(photos):
    data = ContentDataModule("folder", photos, 2, seed=3, image_size=32)
    assert len(data.validation) == 2
    assert not set(data.validation) & set(data.training)
    assert len(data.training) == 4


def test_validation_photos_may_have_a_folder_of_their_own(photos, tmp_path):
    (tmp_path / "val").mkdir()
    noise_image(20, 20).save(tmp_path / "val" / "v.png")
    data = ContentDataModule("coco", photos, 5, validation_root=tmp_path / "val", trusted=True)
    assert len(data.training) == 6
    assert [path.name for path in data.validation] == ["v.png"]


@pytest.mark.parametrize("trusted", [False, True])
def test_validation_photos_are_not_learned_from(photos, tmp_path, trusted, caplog):
    """Whether they lie under the root, or it has a copy; and a folder given for both leaves nothing to learn from."""
    caplog.set_level("INFO")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(photos / "a.jpg", tmp_path / "elsewhere" / "copy.jpg")
    arguments = {"validation_root": tmp_path / "elsewhere", "trusted": trusted, "image_size": 32}
    within = ContentDataModule("folder", photos, 9, **{**arguments, "validation_root": photos / "deeper"})
    assert within.validation == find_images(photos / "deeper")
    assert within.training == [path for path in find_images(photos) if path not in within.validation]
    assert f"{len(within.validation)} of the photos are validation photos, and not learned from" in caplog.text
    copied = ContentDataModule("folder", photos, 9, **arguments)
    assert len(copied.training) == 5 + trusted  # files are compared where photos are looked at
    with pytest.raises(UserError, match="all photos are validation photos, too: without data.validation_root="):
        ContentDataModule("folder", photos, 9, **{**arguments, "validation_root": photos})


def test_links_to_validation_photos_are_not_learned_from_either(photos, tmp_path):
    (tmp_path / "val").mkdir()
    noise_image(40, 40).save(tmp_path / "val" / "v.png")
    (photos / "other.png").symlink_to(tmp_path / "val" / "v.png")
    arguments = {"validation_root": tmp_path / "val", "trusted": True, "image_size": 32}
    data = ContentDataModule("folder", photos, 9, **arguments)
    assert len(find_images(photos)) == 7
    assert data.training == [path for path in find_images(photos) if path.name != "other.png"]


def test_validation_photos_that_cannot_be_read_are_left_out(photos, tmp_path, caplog):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "broken.jpg").write_text("no photo")
    with pytest.raises(UserError, match=r"none of the validation photos can be read: .*broken.jpg"):
        ContentDataModule("folder", photos, 5, validation_root=tmp_path / "val", image_size=32)
    noise_image(64, 64).save(tmp_path / "val" / "v.png")
    data = ContentDataModule("folder", photos, 5, validation_root=tmp_path / "val", image_size=32)
    assert data.validation == [tmp_path / "val" / "v.png"]
    assert "1 validation photos cannot be read, as " in caplog.text


def test_a_single_photo_serves_as_both(tmp_path, caplog):
    noise_image(20, 20).save(tmp_path / "one.png")
    data = ContentDataModule("folder", tmp_path, 4, image_size=20)
    assert data.training == data.validation == [tmp_path / "one.png"]
    assert "too few photos" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"min_scale": 0}, "data.min_scale=0"),
        ({"image_size": 98}, "data.image_size=98 should be a multiple of 4, such as 96"),
        ({"validation": 0}, "data.validation=0"),
        ({"keep": "grey,corrupt"}, "data.keep=grey,corrupt: 'corrupt' is none of tiny, grey, duplicate"),
        ({"max_rejects": 2}, "data.max_rejects=2 should be in 0…1"),
        ({"smallest_size": 100}, "data.smallest_size=100 should be a multiple of 64, below data.image_size=256"),
        ({"smallest_size": 256}, "data.smallest_size=256 should be"),
        ({"smallest_size": 0}, "data.smallest_size=0 should be"),
        ({"pack": "yes"}, "data.pack is auto, true or false, not 'yes'"),
        ({"root": "/nowhere"}, "no folder '/nowhere'"),
    ],
)
def test_wrong_arguments_are_named(photos, arguments, message):
    with pytest.raises(UserError, match=message):
        ContentDataModule(**{"name": "folder", "root": photos, "validation": 2, **arguments})


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 7, 12])
def test_ranks_share_validation_photos_evenly(photos, tmp_path, world_size):
    """Of six photos each is shown equally often: padding would bias the means. Equal shares keep ranks in step."""
    (tmp_path / "training").mkdir()
    noise_image(64, 64, seed=9).save(tmp_path / "training" / "one.png")
    training = tmp_path / "training"
    data = ContentDataModule("folder", training, 6, validation_root=photos, image_size=32, batch_size=2)
    data.validation = sorted(photos.rglob("*.*"))
    shares = []
    for rank in range(world_size):
        data.trainer = SimpleNamespace(world_size=world_size, global_rank=rank)
        shares.append(list(data.val_dataloader().sampler))
    assert len({len(share) for share in shares}) == 1
    shown = Counter(sum(shares, []))
    assert sorted(shown) == list(range(6))
    assert len(set(shown.values())) == 1
    assert world_size not in (1, 2, 3, 6) or set(shown.values()) == {1}


@pytest.mark.parametrize(("device", "cores", "workers"), [("cpu", 8, 1), ("cuda", 8, 8), ("cuda", 99, 16)])
def test_a_gpus_process_reads_with_its_cores(photos, monkeypatch, device, cores, workers):
    monkeypatch.setattr(module, "cores_of_rank", lambda ranks: cores)
    data = ContentDataModule("folder", photos, 2, image_size=32)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), num_devices=4)
    assert data._loading()["num_workers"] == workers


def test_batches_become_unit_range_floats(photos):
    data = ContentDataModule("folder", photos, 2, image_size=32)
    batch = data.on_after_batch_transfer(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2), 0)
    assert batch.tolist() == [[[[0.0, 1.0]]]]


def test_batches_of_several_sizes_are_reduced_in_training_alone(photos):
    data = ContentDataModule("folder", photos, 2, image_size=128, smallest_size=64, keep="tiny")
    crops = torch.zeros(2, 3, 128, 128, dtype=torch.uint8)
    crops[..., 64:] = 255
    sides = set()
    for position in range(40):
        data.trainer = SimpleNamespace(training=True, lightning_module=SimpleNamespace(images_seen=position))
        batch = data.on_after_batch_transfer(crops, 0)
        side = side_at(position, data.seed, 64, 128)
        assert batch.shape == (2, 3, side, side)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert_close(batch[..., : side // 2 - 1], torch.zeros(2, 3, side, side // 2 - 1))
        assert_close(batch[..., side // 2 + 1 :], torch.ones(2, 3, side, side // 2 - 1))
        sides.add(side)
    assert sides == {64, 128}
    data.trainer.training = False
    assert data.on_after_batch_transfer(crops, 0).shape == (2, 3, 128, 128)


def test_a_folder_to_validate_with_is_not_learned_from(photos, tmp_path):
    """Nor those of it that are not chosen; where it is the whole folder, all but the chosen are."""
    within = photos / "deeper"
    inside = set(find_images(within))
    assert len(inside) > 1
    data = ContentDataModule("mine", photos, 1, validation_root=within, image_size=16)
    assert set(data.training) == set(find_images(photos)) - inside
    assert data.held_out() == [short_key(path, photos) for path in data.validation]
    (tmp_path / "link").symlink_to(within)
    linked = ContentDataModule("mine", photos, 1, validation_root=tmp_path / "link", image_size=16)
    assert linked.held_out() == data.held_out()
    for root in (photos, within):
        data = ContentDataModule("mine", root, 1, validation_root=photos, image_size=16, seed=4)
        assert len(data.training) == len(find_images(root)) - len(data.held_out())
        assert len(data.held_out()) <= 1


def test_photos_under_links_are_held_out_by_their_names_there(photos, tmp_path):
    """As `evaluate.py` finds them."""
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "holiday").symlink_to(photos)
    for number, path in enumerate(find_images(photos)):
        (tmp_path / "links" / f"{number}.jpg").symlink_to(path)
    data = ContentDataModule("mine", tmp_path / "links", 2, image_size=16, max_rejects=1)
    assert data.held_out() == [short_key(path, tmp_path / "links") for path in data.validation]
    assert len(data.held_out()) == 2


@pytest.fixture
def content(photos, tmp_path):
    def content(**arguments):
        return ContentDataModule("mine", photos, 2, image_size=32, packs=tmp_path / "packs", **arguments)

    return content


def test_a_pack_changes_neither_split_nor_photos(photos, content):
    (photos / "broken.jpg").write_text("")
    (photos / "z.jpg").write_bytes((photos / "a.jpg").read_bytes())
    packed, unpacked = content(pack=True, max_rejects=0.3), content(pack=False, max_rejects=0.3)
    assert (packed.training, packed.validation) == (unpacked.training, unpacked.validation)
    assert packed.rejects == unpacked.rejects
    assert [reject.kind for reject in packed.rejects] == ["corrupt", "duplicate"]
    assert len(packed.training) == 4
    assert packed.packed is not None and unpacked.packed is None
    for one, other in zip(packed.photos(), unpacked.photos(), strict=True):
        assert torch.equal(one, other)


def test_other_programs_manifests_make_no_pack(photos, content):
    (photos / "manifest.json").write_text('{"name": "My site"}')
    assert len(content().training) == 4


@pytest.mark.parametrize(("validation", "count"), [(1, 1), (4, 4), (50, 6)])
def test_a_validation_folder_of_its_own_is_used_as_far_as_asked_for(photos, tmp_path, validation, count):
    noise_image(64, 64).save(tmp_path / "one.png")
    (tmp_path / "training").mkdir()
    noise_image(64, 64).save(tmp_path / "training" / "one.png")
    data = ContentDataModule("folder", tmp_path / "training", validation, validation_root=photos, image_size=32)
    assert len(data.training) == 1
    assert len(set(data.validation)) == count


def test_photos_are_packed_where_that_pays(content, monkeypatch, caplog):
    caplog.set_level("INFO")
    assert content(images=1000).packed is None
    assert "kept in memory" in caplog.text
    monkeypatch.setattr(module, "KEPT", 5)
    assert content(images=5).packed is None
    assert "decoded as they are shown: the run's 5 images leave some out" in caplog.text
    assert content(images=6).packed is not None
    assert "4 photos for training, 2 for validation, packed in" in caplog.text
    assert content(images=1).packed is not None  # it is there


def test_without_space_auto_decodes_and_true_stops(content, monkeypatch, caplog):
    monkeypatch.setattr(module, "KEPT", 5)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    data = content(images=6)
    assert data.packed is None
    assert len(data.photos()) == 4
    assert "not packed: " in caplog.text
    with pytest.raises(UserError, match="data.pack=false does without"):
        content(pack=True)


def test_photos_that_will_not_do_are_left_out_up_to_a_share(photos, content, caplog):
    noise_image(90, 80).convert("L").save(photos / "grey.png")
    with pytest.raises(UserError, match=r"1 of 7 images .*more than data.max_rejects=0.05.* data.keep=grey"):
        content()
    assert [reject.photo for reject in content(max_rejects=0.2).rejects] == ["grey.png"]
    assert "skipped: grey.png is grey" in caplog.text
    assert len(content(max_rejects=0.2).training) == 4
    assert len(content(keep="grey,tiny").training) == 5
    assert len(content(trusted=True).training) == 5


def test_nothing_is_packed_before_the_photos_are_found_to_do(photos, content, monkeypatch, tmp_path):
    noise_image(90, 80).convert("L").save(photos / "grey.png")
    monkeypatch.setattr(module, "pack_photos", None)  # which is not called
    with pytest.raises(UserError, match="more than data.max_rejects="):
        content(pack=True)
    assert not (tmp_path / "packs").exists()


def test_a_root_may_be_a_pack(photos, tmp_path):
    (photos / "z.jpg").write_bytes((photos / "a.jpg").read_bytes())
    root = tmp_path / "packed"
    pack(find_images(photos), photos, 60, root)
    arguments = {"validation_root": photos, "image_size": 32, "min_scale": 0.3, "max_rejects": 0.2}
    data = ContentDataModule("coco", root, 2, **arguments)
    held_out = {path.name for path in data.validation}
    expected = [path for path in find_images(photos) if path.name not in {*held_out, "z.jpg"}]
    assert [path.name for path in data.training] == [path.name for path in expected]
    assert len(data.photos()) == len(expected) in (4, 5)
    assert torch.equal(data.photos()[2], PhotoFiles(expected, 60)[2])
    (root / "images.bin").unlink()
    with pytest.raises(UserError, match="is no whole pack .*: remove the folder, and fetch or pack it anew"):
        ContentDataModule("coco", root, 2, **arguments)
    pack(find_images(photos), photos, 60, root)
    with pytest.raises(UserError, match="packed in .* have 60 px: crops take 66"):
        ContentDataModule("coco", root, 2, **{**arguments, "image_size": 36})
    with pytest.raises(UserError, match="is a pack, to learn from: say data.validation_root="):
        ContentDataModule("coco", root, 2, **{**arguments, "validation_root": None})


def test_photos_lost_while_packing_are_rejects_like_any_other(tmp_path, photos, monkeypatch):
    """Of a network's disk that was there when they were looked at, and is away for a while."""
    really, lost = pack_module.look, []

    def look(name, source, short_side):
        if name in lost:
            return replace(really(name, source, short_side)[0], problem="Input/output error"), None
        return really(name, source, short_side)

    monkeypatch.setattr(pack_module, "look", look)
    lost = ["a.jpg"]
    arguments = {"image_size": 32, "pack": True, "packs": tmp_path / "packs"}
    data = ContentDataModule("mine", photos, 1, max_rejects=0.2, **arguments)
    assert [(reject.photo, reject.kind, reject.reason) for reject in data.rejects] == [
        ("a.jpg", "corrupt", "Input/output error")
    ]
    assert photos / "a.jpg" not in {*data.training, *data.validation}
    with pytest.raises(UserError, match="1 of 6 images in .* will not do .1 corrupt., more than data.max_rejects=0.1"):
        ContentDataModule("mine", photos, 1, max_rejects=0.1, **arguments)
