import numpy as np

from impasto.levels import as_type, composite, converted, resize_array, unit


def smooth(width=64, height=48):
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([rows, columns, 1 - rows], axis=2).astype(np.float32) * 0.8 + 0.1


def test_arrays_of_all_types_resize_alike():
    small = [unit(resize_array(as_type(smooth(), dtype), (20, 30))) for dtype in ("uint8", "uint16", "float32")]
    assert np.abs(small[0] - small[2]).max() < 1.5 / 255
    assert np.abs(small[1] - small[2]).max() < 1.5 / 65535


def test_levels_survive_more_bits_and_back():
    eight = np.arange(256, dtype=np.uint8).reshape(256, 1)
    for dtype in ("uint16", "float32"):
        np.testing.assert_array_equal(converted(converted(eight, dtype), "uint8"), eight)
    assert converted(eight, np.uint16)[-1, 0] == 65535


def test_a_composite_is_a_mean_weighted_by_its_mask():
    inside, outside = (np.full((600, 2, 3), level, np.uint8) for level in (200, 100))
    mask = np.linspace(0, 1, 600, dtype=np.float32)[:, None].repeat(2, axis=1)
    expected = 100 + 100 * mask[..., None].repeat(3, axis=2)
    np.testing.assert_allclose(composite(inside, outside, mask), expected, atol=0.51)
