"""Export a trained network: `python scripts/export.py --help`."""

from impasto.commands.export import main

if __name__ == "__main__":
    main()
