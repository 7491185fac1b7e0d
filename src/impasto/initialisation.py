"""The weights that training starts from."""

import hashlib
import logging
from typing import Any

from impasto.assets import STYLES
from impasto.checkpoint import images_in_all, learned_in_all, load_network
from impasto.errors import UserError
from impasto.models.transformer_net import TransformerNet
from impasto.styles import find_checkpoint

log = logging.getLogger("impasto")

FIRST_STYLES = ("night_cafe", "great_wave")  # shipped, in the order in which init=auto takes them


def initialise(init: str, net: TransformerNet, painting: str) -> dict[str, Any]:
    """Load the weights to start from into `net`; returns the record of whose they were.

    `init` is random, a checkpoint or style, or auto: a style that ships, of this architecture but of another painting
    than this one (by its SHA-256), if there is one.
    A network of another style reaches a new one in fewer images (`benchmark.py quality`). Of the record, `images` is
    how many made it, and `learned` the data of each run that did, the first first.
    """
    if init == "random":
        return {"weights": "random"}
    if init == "auto":
        for name in FIRST_STYLES:
            path = STYLES / f"{name}.safetensors"
            if path.is_file():
                source, metadata = load_network(path)
                if _layers(source) == _layers(net) and metadata["style"].get("sha256") != painting:
                    break
        else:
            log.info("Starts from random weights: no style that ships is a network of %s", _layers(net))
            return {"weights": "random"}
    else:
        path = find_checkpoint(init)
        source, metadata = load_network(path)
        if _layers(source) != _layers(net):
            raise UserError(f"init={init} has a network of {_layers(source)}, not {_layers(net)}: init=random does")
    there = source.state_dict()
    net.load_state_dict({name: there.get(name, tensor) for name, tensor in net.state_dict().items()})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    style = metadata.get("style", {}).get("name")
    log.info("Starts from %s, after %d images", path, images_in_all(metadata))
    return {
        "weights": path.name,
        "sha256": digest,
        "style": style,
        "images": images_in_all(metadata),
        "learned": learned_in_all(metadata),
    }


def _layers(net: TransformerNet) -> dict[str, Any]:
    """The arguments that weights depend on; what sizes make of norms, and waves, may be missing, or are left out."""
    return {key: value for key, value in net.arguments.items() if key not in ("margin", "sized", "waves")}
