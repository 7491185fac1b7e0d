"""Stylize images by the million: `python scripts/stylize_many.py --help`."""

from impasto.commands.stylize_many import main

if __name__ == "__main__":
    main()
