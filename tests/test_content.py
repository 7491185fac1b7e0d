import pytest
import torch

from impasto.data.content import ContentDataModule, prepared_coco
from impasto.errors import UserError

from .conftest import noise_image


def test_photos_are_held_out_of_a_folder(photos):
    data = ContentDataModule("folder", photos, 2, seed=3)
    assert len(data.validation) == 2
    assert not set(data.validation) & set(data.training)
    assert len(data.training) == 4


def test_validation_photos_may_have_a_folder_of_their_own(photos, tmp_path):
    (tmp_path / "val").mkdir()
    noise_image(20, 20).save(tmp_path / "val" / "v.png")
    data = ContentDataModule("coco", photos, 5, validation_root=tmp_path / "val", trusted=True)
    assert len(data.training) == 6
    assert [path.name for path in data.validation] == ["v.png"]


def test_a_single_photo_serves_as_both(tmp_path, caplog):
    noise_image(20, 20).save(tmp_path / "one.png")
    data = ContentDataModule("folder", tmp_path, 4)
    assert data.training == data.validation == [tmp_path / "one.png"]
    assert "too few photos" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"min_scale": 0}, "data.min_scale=0"),
        ({"image_size": 98}, "data.image_size=98 should be a multiple of 4, such as 96"),
        ({"validation": 0}, "data.validation=0"),
        ({"root": "/nowhere"}, "no folder '/nowhere'"),
    ],
)
def test_wrong_arguments_are_named(photos, arguments, message):
    with pytest.raises(UserError, match=message):
        ContentDataModule(**{"name": "folder", "root": photos, "validation": 2, **arguments})


def test_batches_become_unit_range_floats(photos):
    data = ContentDataModule("folder", photos, 2)
    batch = data.on_after_batch_transfer(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2), 0)
    assert batch.tolist() == [[[[0.0, 1.0]]]]


def test_coco_counts_as_prepared_when_both_parts_are_there(tmp_path):
    (tmp_path / "train2017").mkdir()
    assert not prepared_coco(tmp_path)
    (tmp_path / "val2017").mkdir()
    assert prepared_coco(tmp_path)
