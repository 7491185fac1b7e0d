"""Stylize images with a trained network: `python stylize.py --help`."""

from impasto.commands.stylize import main

if __name__ == "__main__":
    main()
