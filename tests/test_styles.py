import pytest

from impasto import styles
from impasto.checkpoint import save_network
from impasto.errors import UserError
from impasto.styles import find_checkpoint


def test_a_name_is_a_shipped_style_or_the_newest_run(tmp_path, monkeypatch, small_net):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(styles, "STYLES", tmp_path / "shipped")
    for when in ("2026-01-01", "2026-01-02"):
        save_network(tmp_path / "runs" / "mine" / when / "mine.safetensors", small_net, {})
    save_network(tmp_path / "shipped" / "night.safetensors", small_net, {})
    assert find_checkpoint("mine").parent.name == "2026-01-02"
    assert find_checkpoint("night") == tmp_path / "shipped" / "night.safetensors"
    assert find_checkpoint("runs/mine/2026-01-01/mine.safetensors").parent.name == "2026-01-01"
    (tmp_path / "mine").mkdir()  # a folder of pictures, perhaps
    assert find_checkpoint("mine").parent.name == "2026-01-02"
    with pytest.raises(UserError, match="no checkpoint 'some/file.safetensors'"):
        find_checkpoint("some/file.safetensors")
    with pytest.raises(UserError, match=r"did you mean 'night'\?; known here: mine, night"):
        find_checkpoint("nigth")
