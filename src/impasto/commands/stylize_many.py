"""`python scripts/stylize_many.py`: folders, buckets and manifests of images, over many processes and machines."""

import sys
from dataclasses import dataclass, replace

from impasto import cli
from impasto.commands.stylize import StylizeOptions, job_of
from impasto.errors import UserError

USAGE = """
Stylize more images than one process, or one machine, should: over Ray Data, here or on a cluster.

  python scripts/stylize_many.py ckpt=starry_night input=photos/ output=painted/
  python scripts/stylize_many.py ckpt=starry_night input=photos.csv output=painted/ workers=8 cores=2
  python scripts/stylize_many.py ckpt=starry_night input=s3://bucket/photos output=s3://bucket/painted address=auto
  python scripts/stylize_many.py ckpt=starry_night input=photos/ output=painted/ verify=true

  ckpt=FILE|NAME    a network, as in stylize.py; two with mask=
  input=PATH|URL    a folder at any depth, but for folders that other runs have painted; or a manifest: .txt with a path
                    or URL in each line, .csv, .tsv, .jsonl or .parquet with a column input and, where names are chosen,
                    output; relative paths start at the manifest, whose images are named as they are there
  output=PATH|URL   a folder; what is in it already, of the same photo, network and options, is not done again; with
                    format=png a.jpg becomes a.jpg.png, so that no two meet
  workers=N         processes, each with the network; default: one for each GPU, else one for each group of cores
  cores=N           of each worker; default: 1, or its share of a machine with GPUs
  batch=8           images that a worker is given at once, which is what is done anew where a worker dies
  address=HOST:PORT of a Ray cluster, or auto; default: Ray is started here, and ends with the command. On a cluster
                    every machine needs Impasto, and sees the paths of images, networks and output
  verify=true       paints nothing: reads every result and compares it with the report; what is lost, the next run
                    without verify paints anew
  json=true         a line of JSON at the end: counts, seconds, images and megabytes a second, by worker
  verbose=true      what Ray has to say

and strength, preserve_color, size, stroke, upscale, mask, feather, quality, format, keep_metadata, max_megapixels,
tile, exact, device, precision as in stylize.py. URLs are those of fsspec: s3:// takes pip install s3fs, gs:// gcsfs,
and credentials where these look for them.

Everything streams: a manifest can have any number of rows; of a local folder, the paths are held in memory. Runs on
Linux and macOS. Stopped or killed, it goes on with the same command. Records of all that was done or failed, and of
warnings, are in output/_report/*.jsonl; the exit status is 0 if every image has its picture.
"""


@dataclass
class StylizeManyOptions(StylizeOptions):
    """Options of the command line, as in `USAGE`."""

    workers: int | None = None
    cores: int | None = None
    batch: int = 8
    address: str | None = None
    verify: bool = False
    verbose: bool = False


def stylize_many(words: list[str]) -> None:
    """Stylize as the words say. Raises `UserError`."""
    options = cli.parse(words, StylizeManyOptions)
    if options.json:
        cli.log_to(sys.stderr)
    if options.output is None:
        raise UserError("output=… is missing: a folder, or the URL of one")
    if options.smooth != StylizeManyOptions.smooth:
        raise UserError("smooth= is of videos, which stylize.py takes one by one")
    cli.check_counts(options, "workers", "cores", "batch")

    from impasto.controls import check_mask
    from impasto.image import check_format  # takes a while: mistakes above are answered at once
    from impasto.mass.cluster import Workers
    from impasto.mass.run import stylize_many as run
    from impasto.mass.sources import Source, absolute
    from impasto.picture_files import read_picture
    from impasto.styles import find_checkpoints

    job = job_of(options)
    if job.mask is not None:
        check_mask(read_picture(job.mask, job.megapixels))
        job = replace(job, mask=job.mask.absolute())  # workers start elsewhere
    if job.suffix is not None:
        check_format(job.suffix)
    networks = [path.absolute() for path in find_checkpoints(options.ckpt)]
    if len(networks) > (1 if job.mask is None else 2):
        raise UserError(f"ckpt= has {len(networks)} networks: one at a time, or two with mask=")
    source = Source(absolute(options.input), absolute(options.output), job.suffix)
    workers = Workers(options.workers, options.cores, options.batch, options.address, options.verbose)
    run(job, networks, source, workers, options.verify, options.json)


def main() -> None:
    """Run `stylize_many` on the command line."""
    cli.run(stylize_many, USAGE)
