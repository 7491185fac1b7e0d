"""`python scripts/fetch_coco.py`: COCO 2017 for training."""

from dataclasses import dataclass
from pathlib import Path

from impasto import cli

USAGE = """
Fetch and unpack COCO 2017 (train and val, 20 GB; 40 GB while unpacking) for python train.py data=coco.

  python scripts/fetch_coco.py
  python scripts/fetch_coco.py root=/big/disk/coco    then: train.py data=coco data.root=/big/disk/coco/train2017
                                                            data.validation_root=/big/disk/coco/val2017

  root=DIR    default: data/coco
  url=URL     a mirror; URL/train2017.zip and URL/val2017.zip are fetched

An interrupted download goes on with the same command. Terms: data/README.md.
"""


@dataclass
class FetchOptions:
    """Options of the command line, as in `USAGE`."""

    root: str = "data/coco"
    url: str | None = None


def fetch_coco(words: list[str]) -> None:
    """Fetch as the words say. Raises `UserError`."""
    options = cli.parse(words, FetchOptions)
    from impasto.data import coco

    coco.fetch(Path(options.root), options.url or coco.URL)


def main() -> None:
    """Run `fetch_coco` on the command line."""
    cli.run(fetch_coco, USAGE)
