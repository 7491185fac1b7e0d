"""Score a network and write its model card: `python scripts/evaluate.py --help`."""

from pathlib import Path

from impasto.commands.evaluate import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent / "configs")
