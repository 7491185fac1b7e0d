"""What ships with the package: paintings, photos and trained styles, with their records."""

import csv
import hashlib
import os
from difflib import get_close_matches
from pathlib import Path

from impasto.errors import UserError

ASSETS = Path(__file__).parent
PAINTINGS = ASSETS / "paintings"
PHOTOS = ASSETS / "photos"
STYLES = ASSETS / "styles"  # <name>.safetensors, with its card


def painting(name: str) -> Path:
    """The file of a painting that ships with the package, such as `starry_night`."""
    path = PAINTINGS / f"{name}.jpg"
    if not path.is_file():
        known = sorted(file.stem for file in PAINTINGS.glob("*.jpg"))
        raise UserError(f"there is no painting {name!r}{nearest(name, known)}; the paintings are {', '.join(known)}")
    return path


def provenance(path: str | os.PathLike[str]) -> dict[str, str]:
    """Record of a painting: always its SHA-256, and artist, title, year and status where it is one of ours.

    By content, so that a user's own file under a known name is not credited to van Gogh.
    """
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    row = _record(digest)
    return {key: row[key] for key in ("artist", "title", "year", "status", "sha256")} if row else {"sha256": digest}


def painting_of(sha256: str | None) -> Path | None:
    """The file of the painting with this SHA-256, if it is one of ours."""
    row = _record(sha256)
    return PAINTINGS / row["file"] if row else None


def credit(photo: str) -> str:
    """File, author and licence of a photo that ships with the package, by its file's name; of others, the name."""
    row = next((row for row in _manifest(PHOTOS) if row["file"] == photo), None)
    return f"{photo}: {row['author']}, {row['licence']}" if row else photo


def _record(sha256: str | None) -> dict[str, str] | None:
    return next((row for row in _manifest(PAINTINGS) if row["sha256"] == sha256), None)


def _manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "MANIFEST.tsv").open(encoding="utf-8") as manifest:
        return list(csv.DictReader(manifest, delimiter="\t"))


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean …?` for a misspelt word, or nothing."""
    matches = get_close_matches(word, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
