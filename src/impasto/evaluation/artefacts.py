"""Known faults of style networks, each as one number with a limit that a sound network keeps.

A network here is a function from RGB in [0, 1], (1, 3, height, width), to the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from impasto.losses.functional import grid_pattern

Network = Callable[[Tensor], Tensor]
Image = Float[Tensor, "1 3 height width"]

CHECKERBOARD = 2.0  # times the amplitude of the painting or the photo, whichever has more
UNSEEN = 0.5  # 8-bit levels: a pattern that no eye sees
BORDER = 3.0  # times the change that another crop makes inside the picture
LINE = 2.0  # times that for the outermost pixels: strokes go along an edge
BLOBS = 0.25  # of the range [0, 1]
STROKES = 3.0  # times the change of the strongest quarter: as far as strokes stand out, in paintings, too
HOLES = 0.5  # share of pixels
BARE = 0.5  # of the contrast in the painting's quietest quarter
SHIFT = 0.95  # of the change that shifting the result would make
BAND = 16  # px, left out at the edges
TILE = 64  # px, side of the squares in which a grid is looked for
MARGIN = 64  # px, by which the larger crop is larger
BLOCK = 16  # px, of the means in which blobs and borders show
FLAT = 256  # px, side of the flat pictures; a photo to be judged by has as many
ODD_SIZES = ((1, 1), (3, 5), (17, 64), (101, 163))  # height, width (px)


@dataclass(frozen=True)
class Finding:
    """One measure of the suite: smaller is better, and `value` above `limit` fails."""

    name: str
    value: float
    limit: float
    what: str

    @property
    def passed(self) -> bool:
        """Whether the limit is kept; NaN does not keep it."""
        return self.value <= self.limit


def artefacts(network: Network, photo: Image, painting: Image) -> list[Finding]:
    """The whole suite on one photo, of 256 px on each side at least."""
    return [
        checkerboard(network, photo, painting),
        border(network, photo),
        *flat(network, photo),
        bare(network, painting),
        shift(network, photo),
        odd_sizes(network, photo),
    ]


def checkerboard(network: Network, photo: Image, painting: Image) -> Finding:
    """Spectral energy at the frequencies (i/4, j/4) of the upsampling, all phases alike, as an amplitude.

    In any colour; all over, and in the square that has most of it; of the photo, and of pictures of one colour, where
    instance norm makes much of little. A painting's canvas and a photo's compression have some, too: theirs is the
    measure.
    """
    own = torch.stack([_amplitudes(photo), _amplitudes(painting)]).amax(0).clamp(min=UNSEEN)
    plain = (torch.full((1, 3, FLAT, FLAT), value) for value in (0.0, 0.5, 1.0))
    found = torch.stack([_amplitudes(network(each)) for each in (photo, *plain)]).amax(0)
    value = float((found / own).max())
    return Finding("checkerboard", value, CHECKERBOARD, "amplitude of a 4 px grid, times the painting's or the photo's")


def border(network: Network, photo: Image) -> Finding:
    """Change of the worst edge, against the change inside, when the same area is a part of a larger crop.

    Measured on means over `BLOCK` px, as strokes lie elsewhere in another crop; dots, rows and dark edges do not. A
    line shows in the outermost pixels alone, whose means are along the edge.
    """
    height, width = (side // BLOCK * BLOCK for side in photo.shape[-2:])  # blocks reach all four edges
    photo = photo[..., :height, :width]
    alone = network(photo[..., MARGIN:-MARGIN, MARGIN:-MARGIN])
    part = network(photo)[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    ratios = []
    for difference in (alone - part, (alone - part).transpose(2, 3)):  # above and below, left and right
        for depth, allowed in ((BLOCK, 1.0), (1, LINE)):
            change = F.avg_pool2d(difference, (depth, BLOCK)).abs().mean((0, 1))
            rows, columns = (slice(count // 4, count - count // 4) for count in change.shape)
            middle = change[rows, columns].mean().clamp(min=0.02)
            ratios += [edge.mean() / middle / allowed for edge in (change[0], change[-1])]
    value = float(torch.stack(ratios).max())
    return Finding("border", value, BORDER, "change of the worst edge in another crop, times the middle's")


def flat(network: Network, photo: Image) -> list[Finding]:
    """Blobs and holes where there is no content: white, black, grey, a gradient; alone, and as a patch in the photo.

    Strokes may be all over, in full contrast: a blob is what stands out from the strongest quarter of them.
    """
    blobs, holes = [], []
    for content, area in _flat_contents(photo):
        stylized = network(content)[..., area, area]
        blocks = F.avg_pool2d(stylized, BLOCK)
        # strokes along an edge fill its row or column, a gradient goes along the rows: only a blob stands out from all
        column, row = (blocks.median(along, keepdim=True).values for along in (2, 3))
        both = row + column - row.median(2, keepdim=True).values
        changes = torch.stack([(blocks - expected).abs().amax(1) for expected in (column, row, both)])
        change = changes.amin(0).flatten()
        blobs.append(change.amax() - STROKES * change.quantile(0.75))
        lost = (stylized.amax(1) < 1 / 255) | (stylized.amin(1) > 254 / 255)
        holes.append(torch.where(stylized.isfinite().all(), F.avg_pool2d(lost.float()[None], BLOCK).amax(), torch.nan))
    return [
        Finding("blobs", float(torch.stack(blobs).max()), BLOBS, "colour that stands out from a flat area's strokes"),
        Finding("holes", float(torch.stack(holes).max()), HOLES, "black or white pixels in a flat area's worst block"),
    ]


def bare(network: Network, painting: Image) -> Finding:
    """What large even areas, a black and a white one side by side, lack of the strokes that the painting's have.

    Strokes are the luminance's standard deviation in blocks of `BLOCK` px: their median, of the barer area, against
    the painting's lower quartile.
    """
    content, middle = torch.zeros(1, 3, FLAT, FLAT), FLAT // 2
    content[..., middle:] = 1
    stylized = network(content)[..., 2 * BAND : -2 * BAND, :]
    areas = (side[..., 2 * BAND : -2 * BAND] for side in torch.split(stylized, middle, dim=3))
    strokes = torch.stack([_contrast(area).median() for area in areas]).min()
    quiet = _contrast(painting).quantile(0.25)
    value = float((quiet - strokes) / quiet.clamp(min=UNSEEN / 255))  # a plain ground has none, nor need the areas
    return Finding("bare", value, BARE, "strokes that even areas lack, of those in the painting's quietest quarter")


def shift(network: Network, photo: Image) -> Finding:
    """Change of the result when the photo moves by one pixel, against that of moving the result itself.

    0: the strokes move with the photo. 1: they might as well be fixed to the pixels.
    """
    here, there = network(photo[..., 1:, 1:]), network(photo[..., :-1, :-1])
    inside = (..., slice(BAND, -BAND), slice(BAND, -BAND))
    followed = (here[..., :-1, :-1] - there[..., 1:, 1:])[inside].abs().mean()
    stuck = (here[..., 1:, 1:] - here[..., :-1, :-1])[inside].abs().mean()
    value = float(followed / stuck.clamp(min=1e-6))
    return Finding("shift", value, SHIFT, "change when the photo moves by a pixel, times the result's own movement")


def odd_sizes(network: Network, photo: Image) -> Finding:
    """Share of odd sizes whose result has another size or is not finite."""
    bad = 0
    for height, width in ODD_SIZES:
        content = photo[..., :height, :width]
        stylized = network(content)
        bad += stylized.shape != content.shape or not bool(stylized.isfinite().all())
    return Finding("odd sizes", bad / len(ODD_SIZES), 0.0, "share of odd sizes that do not come back whole")


def luminance(image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Y of ITU-R BT.601 from RGB."""
    return torch.einsum("bchw,c->bhw", image, image.new_tensor([0.299, 0.587, 0.114]))[:, None]


def _contrast(image: Image) -> Tensor:
    """Standard deviation of the luminance in each block, flat."""
    grey = luminance(image)
    variance = F.avg_pool2d(grey**2, BLOCK) - F.avg_pool2d(grey, BLOCK) ** 2
    return variance.clamp(min=0).sqrt().flatten()


def _amplitudes(image: Image) -> Float[Tensor, "2"]:
    """Of the 4 px grid, all over and in the square that has most of it, in 8-bit levels."""
    side = min(TILE, *image.shape[-2:])
    tops, lefts = ([*range(0, length - side, side), length - side] for length in image.shape[-2:])
    squares = [image[..., top : top + side, left : left + side] for top in tops for left in lefts]
    worst = torch.stack([grid_pattern(square) for square in squares]).max()
    return 255 * torch.stack([grid_pattern(image), worst]).sqrt()


def _flat_contents(photo: Image) -> Iterator[tuple[Image, slice]]:
    """Flat pictures, and the area of each in which nothing but strokes should be seen."""
    ramp = torch.linspace(0, 1, FLAT).expand(1, 3, FLAT, FLAT)
    start, stop = FLAT // 8, FLAT - FLAT // 8
    for picture in (torch.zeros_like(ramp), torch.full_like(ramp, 0.5), torch.ones_like(ramp), ramp):
        yield picture, slice(0, FLAT)
        patched = photo[..., :FLAT, :FLAT].clone()
        patched[..., start:stop, start:stop] = picture[..., start:stop, start:stop]
        yield patched, slice(start + BAND, stop - BAND)
