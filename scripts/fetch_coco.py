"""Fetch COCO: `python scripts/fetch_coco.py --help`."""

from impasto.commands.fetch_coco import main

if __name__ == "__main__":
    main()
