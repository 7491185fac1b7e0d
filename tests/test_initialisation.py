import re

import pytest
import torch

from impasto.assets import painting, provenance
from impasto.checkpoint import save_network
from impasto.errors import UserError
from impasto.initialisation import initialise
from impasto.models.transformer_net import TransformerNet

from .conftest import grown


def test_training_starts_from_a_style_that_ships_or_another(network_file, small_net, caplog):
    caplog.set_level("INFO", "impasto")

    def started(init, net, painting_name="poppies"):
        return initialise(init, net, provenance(painting(painting_name))["sha256"])

    net, ours = TransformerNet(), TransformerNet(width=4, depth=1)
    before = net.state_dict()["encoder.0.conv.weight"].clone()
    assert started("random", net) == {"weights": "random"}
    assert torch.equal(net.state_dict()["encoder.0.conv.weight"], before)
    assert started("auto", net)["style"] == "night_cafe"
    assert not torch.equal(net.state_dict()["encoder.0.conv.weight"], before)
    assert re.search(r"^Starts from \S*night_cafe.safetensors, after \d+ images$", caplog.messages[-1])
    assert started("auto", net, "night_cafe")["style"] == "great_wave"  # never from the painting itself
    assert started("auto", ours) == {"weights": "random"}  # none ships for this one
    assert caplog.messages[-1].startswith("Starts from random weights: no style that ships is a network of {'width': 4")
    record = started(str(network_file), ours)
    assert record["style"] == "test"
    assert record["images"] == 0
    assert record["learned"] == []
    before = {"images": 12, "learned": [{"name": "bundled", "seed": 0}]}
    own = {"style": {"name": "test"}, "images_seen": 30, "content": {"name": "holiday"}, "seed": 7, "init": before}
    save_network(network_file, small_net, own)
    record = started(str(network_file), ours)
    assert record["images"] == 42  # all that led to it
    assert record["learned"] == [{"name": "bundled", "seed": 0}, {"name": "holiday", "seed": 7}]
    for name, weight in small_net.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight)
    sized = TransformerNet(sized=True)
    started("auto", sized)  # what sizes make of its norms is taken, too
    assert all(tensor.any() for name, tensor in sized.state_dict().items() if name.endswith("_growth"))
    sized = TransformerNet(width=4, depth=1, sized=True, waves=True)
    started(str(network_file), sized)  # what it lacks stays
    new = [tensor for name, tensor in sized.state_dict().items() if name not in small_net.state_dict()]
    assert len(new) == 2 * 7 + 1
    assert not any(tensor.any() for tensor in new)
    save_network(network_file, grown(sized), own)
    twin, plain = TransformerNet(width=4, depth=1, sized=True, waves=True), TransformerNet(width=4, depth=1)
    started(str(network_file), twin)
    started(str(network_file), plain)
    for name, weight in sized.state_dict().items():
        assert torch.equal(twin.state_dict()[name], weight)
        assert torch.equal(plain.state_dict().get(name, weight), weight)
    with pytest.raises(UserError, match="has a network of {'width': 4, 'depth': 1}, not {'width': 16"):
        started(str(network_file), TransformerNet(width=16))
    with pytest.raises(UserError, match="no checkpoint 'none/such.safetensors'"):
        started("none/such.safetensors", ours)
