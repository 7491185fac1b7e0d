"""A photo in every style, on one sheet: `python scripts/gallery.py --help`."""

from impasto.commands.gallery import main

if __name__ == "__main__":
    main()
