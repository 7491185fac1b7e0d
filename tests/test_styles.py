import json
import os
from pathlib import Path

import pytest
import torch

from impasto import styles
from impasto.assets import PHOTOS, STYLES, painting, provenance
from impasto.checkpoint import load_network, save_network
from impasto.commands.train_gallery import SHIPPED
from impasto.errors import UserError
from impasto.evaluation.artefacts import bare
from impasto.image import read_image
from impasto.losses.functional import gram_matrix
from impasto.styles import find_checkpoint, find_checkpoints, style_name
from impasto.tensors import to_tensor


def test_a_name_is_a_shipped_style_or_the_newest_run(tmp_path, monkeypatch, small_net):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(styles, "STYLES", tmp_path / "shipped")
    for age, when in enumerate(("2026-01-02", "2026-01-01", "by_hand")):
        save_network(tmp_path / "runs" / "mine" / when / "mine.safetensors", small_net, {})
        os.utime(tmp_path / "runs" / "mine" / when / "mine.safetensors", (100 - age,) * 2)
    save_network(tmp_path / "shipped" / "night.safetensors", small_net, {})
    assert find_checkpoint("mine").parent.name == "2026-01-02"
    assert find_checkpoint("night") == tmp_path / "shipped" / "night.safetensors"
    assert find_checkpoint("runs/mine/2026-01-01/mine.safetensors").parent.name == "2026-01-01"
    (tmp_path / "mine").mkdir()  # a folder of pictures, perhaps
    assert find_checkpoint("mine").parent.name == "2026-01-02"
    with pytest.raises(UserError, match="no checkpoint 'runs/mine/2026-01-01'"):
        find_checkpoint("runs/mine/2026-01-01")
    (tmp_path / "runs" / "mine" / "2026-01-01" / "config.yaml").touch()  # which makes it a run's folder
    for named in ("runs/mine/2026-01-01", Path("runs/mine/2026-01-01")):
        assert find_checkpoint(named).name == "mine.safetensors"
    assert find_checkpoints("mine,all,night") == [find_checkpoint("mine"), find_checkpoint("night")]
    with pytest.raises(UserError, match="ckpt=all, has a comma with no style beside it"):
        find_checkpoints("all,")
    assert find_checkpoints("runs/mine/2026-01-01/") == [find_checkpoint("runs/mine/2026-01-01")]
    with pytest.raises(UserError, match="no checkpoint 'some/file.safetensors'"):
        find_checkpoint("some/file.safetensors")
    with pytest.raises(UserError, match="'all' are several styles, and this takes one"):
        find_checkpoint("all")
    with pytest.raises(UserError, match=r"did you mean 'night'\?; known here: mine, night"):
        find_checkpoint("nigth")


def test_a_gallerys_networks_have_names_and_what_has_not_ended_is_said(tmp_path, monkeypatch, small_net):
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "runs" / "gallery" / "mine" / "mine.safetensors", small_net, {})
    assert find_checkpoint("mine") == Path("runs/gallery/mine/mine.safetensors")
    for when, images in (("2026-01-01", 20), ("2026-01-02", 10), ("2026-01-02", 300)):
        (tmp_path / "runs" / "my night" / when / "checkpoints").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "my night" / when / "checkpoints" / f"{images:09d}.ckpt").touch()
    os.utime("runs/my night/2026-01-01/checkpoints/000000020.ckpt", (0, 0))
    os.utime("runs/my night/2026-01-02/checkpoints/000000010.ckpt", (0, 0))
    line = (
        "has not been trained to its end: python scripts/export.py ckpt='runs/my night/2026-01-02/checkpoints/000000300"
    )
    for named in ("my night", "runs/my night", "runs/my night/2026-01-02"):
        with pytest.raises(UserError, match=f"'{named}' {line}"):
            find_checkpoint(named)
    save_network(tmp_path / "runs" / "my night" / "2026-01-02" / "ended.safetensors", small_net, {})
    with pytest.raises(UserError, match="export.py ckpt='runs/my night/2026-01-01/checkpoints/0*20"):
        find_checkpoint("runs/my night")
    save_network(tmp_path / "runs" / "my night" / "2026-01-01" / "ended.safetensors", small_net, {})
    for named in ("runs/my night", "runs/my night/2026-01-01/checkpoints"):
        with pytest.raises(
            UserError, match=f"there is no checkpoint '{named}'; .*runs/my night/2026-01-0[12]/ended.saf"
        ):
            find_checkpoint(named)
    with pytest.raises(UserError, match=r"there is no checkpoint 'elsewhere/a\.safetensors'$"):
        find_checkpoint("elsewhere/a.safetensors")
    for name, begin in (("poppies", "style=poppies"), ("other", "style.image=FILE style.name=other")):
        with pytest.raises(UserError, match=f"train one with python train.py {begin}$"):
            find_checkpoint(name)


def test_a_pattern_is_no_name():
    with pytest.raises(UserError, match=r"there is no style '\*\*'"):
        find_checkpoints("**")


def test_several_have_commas_between_them(tmp_path, monkeypatch, small_net):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(styles, "STYLES", tmp_path / "shipped")
    for name in ("night", "wave"):
        save_network(tmp_path / "shipped" / f"{name}.safetensors", small_net, {})
    save_network(tmp_path / "a,b.safetensors", small_net, {})
    assert [path.stem for path in find_checkpoints("all")] == ["night", "wave"]
    assert [path.stem for path in find_checkpoints("wave,night")] == ["wave", "night"]
    assert [path.name for path in find_checkpoints("a,b.safetensors")] == ["a,b.safetensors"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_checkpoints("night,~/shipped/wave.safetensors")[1] == tmp_path / "shipped" / "wave.safetensors"
    with pytest.raises(UserError, match="did you mean 'wave'"):
        find_checkpoints("night,wav")


@pytest.mark.parametrize("name", SHIPPED.split(","))
def test_a_shipped_style_paints_and_says_what_it_is(name, vgg):
    path = STYLES / f"{name}.safetensors"
    assert path.stat().st_size <= 3.5e6
    net, metadata = load_network(path)
    assert metadata["style"]["sha256"] == provenance(painting(name))["sha256"]
    assert {"content", "images_seen", "init", "loss", "seed", "strength", "versions", "vgg"} <= metadata.keys()
    photo = to_tensor(read_image(PHOTOS / "cat.jpg", 160))
    style = to_tensor(read_image(painting(name), metadata["style"]["stroke"]))
    with torch.no_grad():
        stylized = net(photo)
        target, before, after = (gram_matrix(vgg(each, ["relu3_1"])["relu3_1"]) for each in (style, photo, stylized))
    assert (after - target).square().mean() < 0.25 * (before - target).square().mean()
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["network"] == metadata
    assert {256, 512, 1024} == {line["size"] for line in card["scores"]["worth"]}
    with torch.no_grad():
        assert bare(net, style).passed
    assert len(card["scores"]["artefacts"]) == 7
    assert all(finding["passed"] for finding in card["scores"]["artefacts"])
    assert f"# {metadata['style']['title']}" in path.with_suffix(".md").read_text()
    assert (STYLES / f"{name}_sheet.jpg").is_file()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("café noir-2.1", "café noir-2.1"),
        ("夜", "夜"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("/absolute", "_absolute"),
        ("a\\b:c\n\0\u2028d", "a_b_c_d"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("[red]", "_red_"),
        ("x" * 10**6, "x" * 60),
        ("", "stylized"),
        ("..", "stylized"),
        (3, "stylized"),
        (None, "stylized"),
    ],
)
def test_a_records_name_is_safe_in_file_names(name, safe):
    assert style_name({"style": {"name": name}}) == safe


def test_a_record_need_not_have_a_style():
    for record in ({}, {"style": None}, {"style": ["name"]}, {"style": "name"}):
        assert style_name(record, "other") == "other"
