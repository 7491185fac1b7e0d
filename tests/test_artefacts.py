"""Each measure passes a sound network and fails one that is broken in its way."""

import pytest
import torch
from torch.nn import functional as F

from impasto.assets import PHOTOS, painting
from impasto.evaluation import artefacts
from impasto.evaluation.artefacts import (
    Finding,
    bare,
    border,
    checkerboard,
    flat,
    luminance,
    odd_sizes,
    shift,
)
from impasto.image import read_image
from impasto.tensors import to_tensor

SIDE = 320


@pytest.fixture(scope="module")
def scene():
    return to_tensor(read_image(PHOTOS / "fig_bowl.jpg", SIDE)), to_tensor(read_image(painting("starry_night"), SIDE))


def sound(image):
    """A filter: the mean of 3×3 pixels, with every other property a network should have."""
    return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), "replicate"), 3, stride=1)


def with_strokes(image):
    """The same, with waves of the place all over."""
    columns = torch.arange(image.shape[-1]) * (2 * torch.pi / 11)
    return sound(image) * 0.8 + 0.1 + 0.1 * columns.sin()


def gridded(image):
    """Every fourth row and column a little brighter, as transposed convolutions do it."""
    stylized = sound(image).clone()
    stylized[..., ::4, ::4] += 0.08
    return stylized


def gridded_where_black(image):
    """The same, but in black pictures alone."""
    return sound(image) if image.any() else gridded(image)


def gridded_where_white(image):
    """The same, but in white pictures alone."""
    return gridded(image) if image.amin() == 1 else sound(image)


def dark_edged(image):
    """Zero padding, as of a stack of large kernels."""
    return F.avg_pool2d(image, 31, stride=1, padding=15)


def framed(image):
    """A black line around the picture, one pixel wide, and strokes inside."""
    stylized = torch.zeros_like(image)
    stylized[..., 1:-1, 1:-1] = with_strokes(image)[..., 1:-1, 1:-1]
    return stylized


def underlined(image):
    """A line along the bottom alone, lighter than what it is under."""
    stylized = sound(image).clone()
    stylized[..., -1, :] += 0.3
    return stylized


def woven_in(image, weave=(1.0, 1.0, 1.0)):
    """A weave of every second pixel, in the photo alone."""
    stylized = sound(image).clone()
    if image.std() > 0.01:
        stylized[..., ::2] += 0.15 * torch.tensor(weave).view(3, 1, 1)
        stylized[..., 1::2] -= 0.15 * torch.tensor(weave).view(3, 1, 1)
    return stylized


def woven_of_colours(image):
    """Red against green of the same brightness."""
    return woven_in(image, (1.0, -0.299 / 0.587, 0.0))


def woven_in_places(image):
    """In a fiftieth of the picture."""
    stylized = sound(image).clone()
    stylized[..., 130:175, 100:145] = woven_in(image)[..., 130:175, 100:145]
    return stylized


def woven_and_back(image):
    """Bright where it is dark in the picture's other half."""
    return torch.cat([woven_in(image[..., :160, :]), woven_in(image[..., 160:, :].flip(3)).flip(3)], dim=2)


def dotted_edge(image):
    """A row of dots along the bottom."""
    stylized = sound(image).clone()
    stylized[..., -8:, ::2] = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1)
    return stylized


def dotted_right(image):
    """The same along the right."""
    return dotted_edge(image.transpose(2, 3)).transpose(2, 3)


def dotted_top(image):
    """The same along the top."""
    return dotted_edge(image.flip(2)).flip(2)


def dotted_left(image):
    """The same along the left."""
    return dotted_right(image.flip(3)).flip(3)


def blobbed(image):
    """A bright blob wherever there is little content."""
    stylized = sound(image).clone()
    stylized[..., 100:130, 100:130] = 1 - stylized[..., 100:130, 100:130].round()
    return stylized


def with_a_large_blob(image):
    """One of a twelfth of a flat patch, dark among waves."""
    stylized = with_strokes(image).clone()
    stylized[..., 100:156, 100:156] *= 0.3
    return stylized


def stroked(image):
    """Bright strokes that reach 40 px from any edge into what is flat."""
    contrast = (F.max_pool2d(image, 3, stride=1, padding=1) + F.max_pool2d(-image, 3, stride=1, padding=1)).amax(1)
    near = F.max_pool2d(F.max_pool2d(contrast, (81, 1), stride=1, padding=(40, 0)), (1, 81), stride=1, padding=(0, 40))
    return sound(image) * 0.4 + 0.5 * (near > 0.02)


def blob_in_strokes(image):
    """The same, and a dark blob among them, beside the right edge of a flat patch."""
    stylized = stroked(image).clone()
    stylized[..., 100:130, 180:210] *= 0.3
    return stylized


def starred(image, strokes=0.1):
    """A picture of one colour alone, full of strokes, with stars of 0.4 among them."""
    if (image != image[..., :1, :]).any():
        return sound(image)
    blocks = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * strokes
    blocks[..., 3::5, 2::6] = 0.4
    return 0.5 + F.interpolate(blocks, scale_factor=artefacts.FLAT // 16)


def burnt(image):
    """Bright areas become wholly white."""
    stylized = sound(image)
    return torch.where(stylized.amin(1, keepdim=True) > 0.45, 1.0, stylized * 0.8 + 0.1)


def drowned(image):
    """Dark areas become wholly black."""
    return 1 - burnt(1 - image)


def reddened(image):
    """Even areas become wholly red, which is a colour as others are."""
    return torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand_as(image) if image.std((2, 3)).max() < 0.5 else image


def lined(image):
    """A bright stripe along the top and one along the left, which meet, as strokes along edges do."""
    stylized = sound(image) * 0.2
    stylized[..., :16, :] += 0.4
    stylized[..., :, :16] += 0.4
    return stylized


def unsteady(image):
    """Noise that is another for every picture."""
    return (sound(image) * 0.7 + 0.3 * torch.rand(image.shape)).clamp(0, 1)


def cropping(image):
    """What a network without padding does to sizes that its strides do not divide."""
    height, width = (side // 4 * 4 for side in image.shape[-2:])
    return image[..., :height, :width]


def not_a_number(image):
    return image * float("nan")


MEASURES = {
    "checkerboard": lambda network, photo, style: checkerboard(network, photo, style),
    "border": lambda network, photo, style: border(network, photo),
    "blobs": lambda network, photo, style: flat(network, photo)[0],
    "holes": lambda network, photo, style: flat(network, photo)[1],
    "bare": lambda network, photo, style: bare(network, style),
    "shift": lambda network, photo, style: shift(network, photo),
    "odd sizes": lambda network, photo, style: odd_sizes(network, photo),
}
BROKEN = [
    ("checkerboard", gridded),
    ("checkerboard", gridded_where_black),
    ("checkerboard", gridded_where_white),
    ("checkerboard", woven_of_colours),
    ("checkerboard", woven_in_places),
    ("checkerboard", woven_and_back),
    ("border", dark_edged),
    ("border", framed),
    ("border", underlined),
    ("border", dotted_edge),
    ("border", dotted_right),
    ("border", dotted_top),
    ("border", dotted_left),
    ("blobs", blobbed),
    ("blobs", with_a_large_blob),
    ("blobs", blob_in_strokes),
    ("holes", burnt),
    ("holes", drowned),
    ("bare", sound),
    ("shift", unsteady),
    ("odd sizes", cropping),
    *((name, not_a_number) for name in MEASURES),
]


def test_a_sound_network_passes(scene):
    findings = artefacts.artefacts(with_strokes, *scene)
    assert [finding.name for finding in findings] == list(MEASURES)
    assert all(finding.passed for finding in findings), findings


@pytest.mark.parametrize(("name", "network"), BROKEN)
def test_a_broken_network_fails_where_it_is_broken(scene, name, network):
    finding = MEASURES[name](network, *scene)
    assert finding.name == name
    assert not finding.passed, finding


def test_strokes_along_an_edge_are_no_blobs(scene):
    for network in (stroked, lined):  # of twice the limit
        strokes = flat(network, scene[0])[0]
        assert strokes.passed, strokes


def test_a_colour_is_no_hole(scene):
    holes = flat(reddened, scene[0])[1]
    assert holes.value == 0


def test_a_grid_that_the_painting_or_the_photo_has_is_none_of_the_networks(scene):
    photo, style = scene
    own = checkerboard(gridded, photo, style).value
    assert checkerboard(gridded, photo, gridded(style)).value < own / 4
    assert checkerboard(gridded, gridded(photo), style).value < own / 2


def test_edges_that_hardly_differ_are_no_border(scene):
    """Nor does the middle of what a filter makes, but for nothing."""
    assert border(sound, scene[0]).value < 0.5


def test_even_areas_have_all_the_strokes_of_an_even_painting(scene):
    assert bare(sound, torch.rand(1, 3, 64, 64) * 0.02).value == pytest.approx(1)
    waves = with_strokes(torch.full((1, 3, 320, 320), 0.5))
    assert bare(with_strokes, waves).value == pytest.approx(0, abs=0.01)


def test_a_plain_ground_has_no_strokes_to_lack(scene):
    """A logo on white, or on what a scanner makes of white."""
    for ground in (torch.ones(1, 3, 64, 64), 1 - torch.rand(1, 3, 64, 64) * 1e-4):
        ground[..., :16, :16] = scene[1][..., :16, :16]
        assert bare(sound, ground).value == pytest.approx(0, abs=0.02)
        assert -1000 < bare(with_strokes, ground).value < 0


def test_stars_among_strokes_are_no_blobs(scene):
    stars = flat(starred, scene[0])[0]
    assert stars.passed, stars
    stars = flat(lambda image: starred(image, strokes=0.01), scene[0])[0]  # in what is flat but for them
    assert not stars.passed, stars


def test_not_a_number_fails_any_limit():
    assert not Finding("x", float("nan"), 1.0, "").passed
    assert Finding("x", 1.0, 1.0, "").passed


def test_luminance_is_that_of_television():
    assert luminance(torch.ones(1, 3, 2, 2)).flatten().tolist() == pytest.approx([1.0] * 4)
    colours = torch.eye(3).view(3, 3, 1, 1)
    assert luminance(colours).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])
