"""Measure Impasto against a textbook implementation: `python scripts/benchmark.py --help`."""

from impasto.commands.benchmark import main

if __name__ == "__main__":
    main()
