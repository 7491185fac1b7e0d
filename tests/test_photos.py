import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from impasto.data.photos import (
    PhotoFiles,
    PositionBatches,
    TrainingPhotos,
    ValidationPhotos,
    photo_at,
    side_at,
    source_size,
    split,
)
from impasto.errors import UserError
from impasto.guards.loader import loader_error
from impasto.image import find_images

from .conftest import noise_image

AUGMENTATION = {"min_scale": 0.3, "colour": 0.3, "patches": 0.3}


@pytest.fixture
def dataset(photos):
    return training_photos(photos)


def training_photos(folder, seed=5, **augmentation):
    files = PhotoFiles(find_images(folder), source_size(32, 0.3))
    return TrainingPhotos(files, 32, seed, **{**AUGMENTATION, **augmentation})


def test_a_sample_is_a_function_of_seed_and_position(photos, dataset):
    again = training_photos(photos)
    torch.manual_seed(123)  # the global generator has no say
    backwards = [again[position] for position in reversed(range(20))][::-1]
    assert all(torch.equal(dataset[position], backwards[position]) for position in range(20))
    other = training_photos(photos, seed=6)
    assert not all(torch.equal(dataset[position], other[position]) for position in range(6))


def test_samples_are_crops_and_leave_the_global_generator_alone(dataset):
    state = torch.get_rng_state()
    crop = dataset[3]
    assert crop.shape == (3, 32, 32)
    assert crop.dtype == torch.uint8
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("width", "height"), [(60, 60), (80, 60), (107, 60), (60, 120), (600, 60)])
@pytest.mark.parametrize("min_scale", [0.1, 0.64])
def test_crops_vary_whatever_the_photos_shape(width, height, min_scale):
    """Where no crop was as large as was asked for, the middle of a wide photo was all that was learned from."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    photo = torch.stack([rows, columns % 256, columns // 256]).to(torch.uint8)
    dataset = TrainingPhotos([photo], 64, 5, min_scale=min_scale, colour=0, patches=0)
    crops = [dataset[position].float() for position in range(200)]
    first, last = (torch.stack([crop[:, place, place] for crop in crops]) for place in (0, -1))
    assert len(torch.unique(torch.cat([first, last], 1), dim=0)) > 150
    sides = [(crop[0].amax() - crop[0].amin() + 1).item() for crop in crops]
    short, largest = min(width, height), min(1.25 * min(width, height), width, height) * min(width, height)
    assert 0.8 * (min_scale * largest) ** 0.5 - 3 < min(sides) <= max(sides) <= min(height, 1.25 * short)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_has_gone_ends_it_though_some_photos_are_in_memory(tmp_path, workers):
    """Else training would go on with those few, for hours."""
    for number in range(12):
        noise_image(40, 40, number).save(tmp_path / f"{number:02d}.png")
    dataset = training_photos(tmp_path)
    for number in (0, 1):
        dataset.photos[number]
    for path in tmp_path.iterdir():
        path.unlink()
    dataset[next(position for position in range(12) if photo_at(position, 5, 12) == 0)]  # which is in memory
    bad = next(position for position in range(12) if photo_at(position, 5, 12) == 3)
    with pytest.raises(UserError) as told:
        next(iter(DataLoader(dataset, sampler=[bad], num_workers=workers)))
    said = loader_error(told.value, None, 0) or told.value
    pattern = r"8 photos in a row cannot be read any more \(there is no image '.*10.png'\): "
    pattern += "bring them back, then resume=true goes on"
    assert re.fullmatch(pattern, str(said))


def test_every_epoch_shows_every_photo_once(photos, dataset):
    read = []

    class Noting(PhotoFiles):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    dataset.photos = Noting(find_images(photos), 32)
    for position in range(18):
        dataset[position]
    assert [sorted(read[start : start + 6]) for start in (0, 6, 12)] == [list(range(6))] * 3
    assert read[:6] != read[6:12] or read[6:12] != read[12:]


def test_sides_are_drawn_alike_in_every_octave():
    sides = [side_at(position, 3, 128, 512) for position in range(4000)]
    assert sides == [side_at(position, 3, 128, 512) for position in range(4000)]
    assert sides != [side_at(position, 4, 128, 512) for position in range(4000)]
    assert set(sides) == set(range(128, 513, 64))
    assert 0.4 < sum(side < 256 for side in sides) / len(sides) < 0.55
    assert {side_at(position, 3, 128, 128) for position in range(50)} == {128}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_together_see_what_one_rank_sees(world_size):
    ranks = [list(PositionBatches(7, 40, 2, rank=rank, world_size=world_size)) for rank in range(world_size)]
    together = [sorted(sum(batches, [])) for batches in zip(*ranks, strict=True)]
    assert together == [sorted(batch) for batch in PositionBatches(7, 40, 2 * world_size)]
    assert len(PositionBatches(7, 40, 2, world_size=world_size)) == len(together)
    assert {len(batch) for batches in ranks for batch in batches} == {2}


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_ranks_together_show_every_photo_once_per_epoch(tmp_path, world_size, count):
    """Also with fewer photos than ranks, and a number of images that no whole batches make."""

    class Numbers(list):
        def __getitem__(self, index):
            return torch.full((3, 8, 8), index, dtype=torch.uint8)

    dataset = TrainingPhotos(Numbers(range(count)), 8, 1, min_scale=1, colour=0, patches=0)
    ranks = [PositionBatches(3, 40, 2, rank=rank, world_size=world_size) for rank in range(world_size)]
    positions = sorted(position for batches in ranks for batch in batches for position in batch)
    assert positions == list(range(3, 3 + len(positions)))
    assert 40 <= positions[-1] + 1 < 40 + 2 * world_size  # the last batch is whole, and starts the next epoch
    assert len({len(list(batches)) for batches in ranks}) == 1  # nobody waits for another
    shown = {position: int(dataset[position].max()) for position in positions}
    for epoch in range(-(-3 // count), 40 // count):
        assert sorted(shown[epoch * count + place] for place in range(count)) == list(range(count))


def test_positions_go_on_where_a_run_stopped():
    whole = list(PositionBatches(0, 40, 4))
    rest = PositionBatches(12, 40, 4, taken=3)
    assert whole[:3] + list(rest) == whole
    assert len(rest) == len(whole)


def test_a_sample_is_no_view_of_its_photo(tmp_path):
    noise_image(32, 32).save(tmp_path / "as_large_as_the_crop.png")
    dataset = training_photos(tmp_path, min_scale=1, colour=0, patches=1)
    before = dataset.photos[0].clone()
    for position in range(8):
        dataset[position].zero_()
    assert torch.equal(dataset.photos[0], before)


def test_datasets_travel_to_spawned_workers(photos, dataset):
    validation = ValidationPhotos(find_images(photos), 32)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3], dataset[3])
    assert torch.equal(pickle.loads(pickle.dumps(validation))[3], validation[3])


def test_the_split_is_fixed_by_the_seed_and_disjoint(photos):
    paths = find_images(photos)
    training, validation = split(paths, photos, 2, seed=1)
    assert len(validation) == 2
    assert sorted(training + validation) == paths
    assert split(paths, photos, 2, seed=1) == (training, validation)
    assert any(split(paths, photos, 2, seed=seed)[1] != validation for seed in range(2, 6))
    assert len(split(paths, photos, 100, seed=1)[1]) == 2  # at most a third


def test_photos_that_are_added_change_no_more_of_the_split_than_they_take(photos):
    """Those held out before are learned from at most where a new one takes their place, and none the other way."""
    paths = [photos / f"{number}.jpg" for number in range(100)]
    _, before = split(paths, photos, 16, seed=1)
    training, after = split([photos / "0 first.jpg", *paths, photos / "z last.jpg"], photos, 16, seed=1)
    assert len({*before} - {*after}) <= 2
    assert {*after} - {*before} <= {photos / "0 first.jpg", photos / "z last.jpg"}
    assert len({*training} & {*after}) == 0


def test_validation_crops_are_central_and_square(photos):
    crops = ValidationPhotos(find_images(photos), 48)
    assert len(crops) == 6
    image = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(1, 100).repeat(50, 0)).convert("RGB")
    image.save(photos / "a.png")
    central = ValidationPhotos([photos / "a.png"], 50)[0]
    assert central.shape == (3, 50, 50)
    assert central[0, 0].tolist() == list(range(25, 75))


def test_a_photo_that_vanishes_later_is_replaced(photos, dataset, caplog):
    (photos / "a.jpg").unlink()
    (photos / "deeper" / "c.jpeg").write_text("overwritten")
    assert all(dataset[position].shape == (3, 32, 32) for position in range(6))
    assert "c.jpeg" in caplog.text
