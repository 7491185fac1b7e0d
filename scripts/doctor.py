"""What this machine can do: `python scripts/doctor.py --help`."""

from pathlib import Path

from impasto.commands.doctor import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent / "configs")
