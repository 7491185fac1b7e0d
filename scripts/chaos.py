"""Kill a run at random moments: `python scripts/chaos.py --help`."""

from pathlib import Path

from impasto.commands.chaos import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent)
