import csv
import hashlib

import pytest

from impasto.assets import PAINTINGS, PHOTOS, credit, nearest, painting, provenance
from impasto.errors import UserError
from impasto.image import read_image

from .conftest import ROOT


@pytest.mark.parametrize("folder", [PAINTINGS, PHOTOS])
def test_every_picture_is_recorded_and_unchanged(folder):
    with (folder / "MANIFEST.tsv").open(encoding="utf-8") as manifest:
        rows = list(csv.DictReader(manifest, delimiter="\t"))
    assert {row["file"] for row in rows} == {path.name for path in folder.glob("*.jpg")}
    for row in rows:
        assert hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() == row["sha256"]
        assert row.get("status") == "public domain" or row["licence"]


def test_every_painting_has_a_style_and_a_record():
    styles = {path.stem for path in (ROOT / "configs" / "style").glob("*.yaml")} - {"custom"}
    assert styles == {path.stem for path in PAINTINGS.glob("*.jpg")}
    assert len(styles) == 10
    for name in styles:
        assert min(read_image(painting(name)).size) >= 256
    assert provenance(painting("great_wave"))["artist"].startswith("Katsushika Hokusai")


def test_a_users_painting_is_credited_to_nobody(tmp_path):
    (tmp_path / "starry_night.jpg").write_bytes(b"mine")
    assert set(provenance(tmp_path / "starry_night.jpg")) == {"sha256"}


def test_photos_are_credited():
    assert credit("dandelions.jpg") == "dandelions.jpg: Clemens Engelhardt 2018, CC0 1.0"
    assert credit("put_there.jpg") == "put_there.jpg"


def test_misspelt_names_get_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'starry_night'"):
        painting("stary_night")
    assert nearest("zzz", ["starry_night"]) == ""
