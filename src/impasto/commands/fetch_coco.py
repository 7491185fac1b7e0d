"""`python scripts/fetch_coco.py`: COCO's photos for training."""

from dataclasses import dataclass
from pathlib import Path

from impasto import cli

USAGE = """
Fetch COCO for python train.py data=coco: 118,287 photos to learn from, 5,000 to validate with.

  python scripts/fetch_coco.py                              21 GB, 39 on the way
  python scripts/fetch_coco.py pack=320                     training photos straight into a pack: 49 GB, 68 on the way
  python scripts/fetch_coco.py parts=train2014,val2017      what the paper learned from, for data=coco2014: 15 GB, 27
  python scripts/fetch_coco.py root=/big/disk/coco          then: train.py data=coco data.root=/big/disk/coco/train2017
                                                                  data.validation_root=/big/disk/coco/val2017

  root=DIR      default: data/coco
  parts=A,B     default: train2017,val2017; others: train2014 (82,783 photos), val2014 (40,504)
  pack=PX       the training photos decoded, with this short side, as training reads them fastest; no photos are
                unpacked. 320 for crops of 256 px, 160 for 128 px (13 GB)
  url=A,B       mirrors, tried in turn: A/train2017.zip is fetched, by https, and its SHA-256 compared; an archive
                that is there already, as data/coco/train2017.zip, is used and kept
  insecure=true mirrors by http, too: others can see and stop what is fetched, but not change it

Interrupted in any way, the same command goes on where it was: downloads, unpacking and packing, which only a full disk
has begin anew. Terms: data/README.md.
"""


@dataclass
class FetchOptions:
    """Options of the command line, as in `USAGE`."""

    root: str = "data/coco"
    parts: str = "train2017,val2017"
    pack: int | None = None
    url: str | None = None
    insecure: bool = False


def fetch_coco(words: list[str]) -> None:
    """Fetch as the words say. Raises `UserError`."""
    options = cli.parse(words, FetchOptions)
    from impasto.data import coco
    from impasto.errors import UserError, one_line

    if options.pack is not None and not 16 <= options.pack <= 640:
        raise UserError(f"pack={options.pack} should be in 16…640 px: few of COCO's photos are larger")
    urls = [url.rstrip("/") for url in (options.url or coco.URL).split(",")]
    parts = options.parts.split(",")
    try:
        coco.fetch(Path(options.root), parts, urls, short_side=options.pack, insecure=options.insecure)
    except OSError as error:  # a full disk's, of which Python names no file
        problem = error.strerror or one_line(error)
        raise UserError(
            f"cannot fetch into {options.root!r}: {problem}; the same command goes on where it was"
        ) from None


def main() -> None:
    """Run `fetch_coco` on the command line."""
    cli.run(fetch_coco, USAGE)
