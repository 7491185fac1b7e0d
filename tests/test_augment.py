import pytest
import torch
from torchvision.transforms.v2.functional import adjust_hue

from impasto.data.augment import shift_hue, with_patch


@pytest.mark.parametrize("turn", [-0.5, -0.05, 0.0, 0.013, 0.3])
def test_hues_turn_as_torchvisions_within_a_level(turn):
    crop = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    crop[:, :8] = crop[0, :8]  # grey
    crop[0, 8:16] = crop[1, 8:16]  # two channels equal
    difference = shift_hue(crop, turn).int() - adjust_hue(crop, turn).int()
    assert difference.abs().max() <= 1
    assert torch.equal(shift_hue(crop, turn)[:, :8], crop[:, :8])


def test_a_third_of_a_turn_rotates_the_channels():
    crop = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    assert torch.equal(shift_hue(crop, 1 / 3), crop.roll(1, 0))


def test_half_of_the_patches_are_grey_and_many_black_or_white():
    torch.manual_seed(3)
    crop = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    colours = []
    for _ in range(400):
        patched = with_patch(crop.clone())
        row, column = (patched != crop).any(0).nonzero().median(0).values  # a pixel of the patch
        colours.append(patched[:, row, column])
    grey = [colour for colour in colours if colour.unique().numel() == 1]
    assert 0.4 < len(grey) / len(colours) < 0.6
    for extreme in (0, 255):  # a quarter of the greys without a gradient
        assert 0.07 < sum(bool((colour == extreme).all()) for colour in grey) / len(grey) < 0.25


def test_patches_cover_a_part_evenly():
    torch.manual_seed(2)
    for _ in range(20):
        crop = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
        patched = with_patch(crop.clone())
        changed = (patched != crop).any(0)
        assert 0.1 < changed.float().mean() < 0.9
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        inside = patched[:, rows.min() + 1 : rows.max(), columns.min() + 1 : columns.max()].int()
        assert inside.diff(dim=1).abs().max() <= 16  # smooth: noise would differ by hundreds
        assert inside.diff(dim=2).abs().max() <= 16
