"""How much a style flickers on a film: `python scripts/flicker.py --help`."""

from impasto.commands.flicker import main

if __name__ == "__main__":
    main()
