"""Damaged and hostile files through the real code: `python scripts/fuzz.py --help`."""

from impasto.commands.fuzz import main

if __name__ == "__main__":
    main()
