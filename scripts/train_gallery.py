"""Train a gallery of styles: `python scripts/train_gallery.py --help`."""

from pathlib import Path

from impasto.commands.train_gallery import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent)
