"""Train a style: `python train.py --help`."""

from pathlib import Path

from impasto.commands.train import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent / "configs")
