"""Paint one photo by optimising the picture itself: `python scripts/optimize.py --help`."""

from pathlib import Path

from impasto.commands.optimize import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent / "configs")
