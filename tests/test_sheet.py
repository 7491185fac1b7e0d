import numpy as np
from PIL import Image

from impasto.sheet import GAP, LINE, contact_sheet, sheet_size, wrapped

RED, BLUE = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (10, 20), "blue")


def test_pictures_keep_their_proportions_and_places():
    rows = [[("", RED), ("", BLUE)], [("", BLUE)]]
    sheet = contact_sheet(rows, cell=80)
    # 80×40 and 40×80 beside each other, 40×80 below
    assert sheet.size == sheet_size(rows, cell=80) == (80 + 40 + 3 * GAP, 80 + 80 + 3 * GAP)
    assert sheet.getpixel((GAP + 40, GAP + 20)) == (255, 0, 0)
    assert sheet.getpixel((2 * GAP + 80 + 20, GAP + 40)) == (0, 0, 255)
    assert sheet.getpixel((GAP + 20, 2 * GAP + 80 + 40)) == (0, 0, 255)
    assert sheet.getpixel((2 * GAP + 80 + 20, 2 * GAP + 80 + 40)) == (255, 255, 255)


def test_captions_take_a_line_and_are_written():
    plain, captioned = (contact_sheet([[(text, RED)]], cell=80) for text in ("", "strength 1"))
    assert captioned.height == plain.height + LINE
    assert (np.asarray(captioned)[GAP : GAP + LINE] < 100).any()


def test_captions_longer_than_their_pictures_do_not_run_into_each_other():
    short, long = (contact_sheet([[(text, BLUE), ("", RED)]], cell=20) for text in ("", "strength 0.3, stroke 320"))
    assert long.width > short.width + 100
    last = np.asarray(long)[GAP : GAP + LINE, -20 - 2 * GAP :]  # above the second picture, and before it
    assert (last == 255).all()


def test_wrapping_leaves_nothing_out():
    assert wrapped([("a", RED)] * 5, 2) == [[("a", RED)] * 2, [("a", RED)] * 2, [("a", RED)]]
