"""Where trained styles are."""

import glob
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from impasto.assets import PAINTINGS, STYLES, nearest
from impasto.errors import UserError

SAVED = "checkpoints/[0-9]*.ckpt"  # in a run's folder, before it has ended


def find_checkpoints(ckpt: str) -> list[Path]:
    """What `ckpt=` means where it may be several, with commas between them, each once; `all` are those that ship."""
    if Path(ckpt).exists() and ckpt != "all":  # whose name may have a comma
        return [find_checkpoint(ckpt)]
    found = list[Path]()
    for name in ckpt.split(","):
        if not name:
            raise UserError(f"ckpt={ckpt} has a comma with no style beside it")
        found += _all_shipped() if name == "all" else [find_checkpoint(os.path.expanduser(name))]
    return list(dict.fromkeys(found))


def _all_shipped() -> list[Path]:
    if shipped := sorted(STYLES.glob("*.safetensors")):
        return shipped
    raise UserError(f"ckpt=all: no style ships in {STYLES}; train one with python train.py style=starry_night")


def find_checkpoint(ckpt: str | os.PathLike[str]) -> Path:
    """What `ckpt=` means: a file, a run's folder, a style that ships, or the newest run of that style in `runs`."""
    ckpt = os.fspath(ckpt)
    if Path(ckpt).is_file():
        return Path(ckpt)
    if ckpt == "all":
        raise UserError("'all' are several styles, and this takes one")
    if (Path(ckpt) / "config.yaml").is_file() and len(ended := list(Path(ckpt).glob("*.safetensors"))) == 1:
        return ended[0]
    shipped = STYLES / f"{ckpt}.safetensors"
    if shipped.is_file():
        return shipped
    # of runs, whose names can be the user's; a gallery has its own between
    if trained := sorted(Path("runs").glob(f"*/*/{glob.escape(ckpt)}.safetensors")):
        return max(trained, key=lambda path: (path.stat().st_mtime, path))
    runs = [Path(ckpt), *Path(ckpt).glob("*/"), *Path("runs", ckpt).glob("*/")]
    if saved := [file for run in runs if not any(run.glob("*.safetensors")) for file in run.glob(SAVED)]:
        newest = shlex.quote(str(max(saved, key=lambda path: (path.stat().st_mtime, path))))
        raise UserError(
            f"{ckpt!r} has not been trained to its end: python scripts/export.py ckpt={newest} makes a network of it"
        )
    if Path(ckpt).suffix or os.sep in ckpt:
        raise UserError(f"there is no checkpoint {ckpt!r}{_offer(Path(ckpt))}")
    known = sorted({file.stem for file in (*STYLES.glob("*.safetensors"), *Path("runs").glob("*/*/*.safetensors"))})
    begin = f"style={ckpt}" if (PAINTINGS / f"{ckpt}.jpg").is_file() else f"style.image=FILE style.name={ckpt}"
    raise UserError(
        f"there is no style {ckpt!r}{nearest(ckpt, known)}; "
        f"known here: {', '.join(known) or 'none yet'}; train one with python train.py {begin}"
    )


def _offer(folder: Path) -> str:
    """The newest network of the runs in a folder, or beside it in a run's."""
    ended = [*folder.glob("*/*.safetensors"), *folder.absolute().parent.glob("*.safetensors")]
    newest = max(ended, key=lambda path: path.stat().st_mtime, default=None) if folder.is_dir() else None
    return "" if newest is None else f"; {newest} is one"


def style_name(record: Mapping[str, Any], default: str = "stylized") -> str:
    """The style's name that a checkpoint's record has, made safe for file names: a record can say anything.

    Letters and digits of any script, spaces, `_`, `-` and `.` stay; what leads elsewhere or hides a file does not.
    """
    style = record.get("style")
    name = style.get("name") if isinstance(style, dict) else None
    safe = re.sub(r"[^\w .-]+", "_", name[:60]).strip(" .-") if isinstance(name, str) else ""
    return safe or default
