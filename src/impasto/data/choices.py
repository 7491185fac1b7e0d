"""What may be asked of the photos to learn from: told before hours are spent on looking at them."""

from impasto.data.photos import STEP
from impasto.data.scan import KINDS
from impasto.errors import UserError

LONGEST = 1_000_000  # s: eleven days; timers end at three hundred years


def check_choices(
    *,
    validation: int,
    batch_size: int,
    image_size: int,
    smallest_size: int | None,
    workers: int | None,
    timeout: float,
    min_scale: float,
    colour: float,
    patches: float,
    max_rejects: float,
    pack: bool | str,
    keep: str,
    **_: object,
) -> None:
    """Raise `UserError` for one of `ContentDataModule`'s arguments, as `data.…`, that is out of its range."""
    for option, value in (("batch_size", batch_size), ("validation", validation)):
        if value < 1:
            raise UserError(f"data.{option}={value} should be at least 1")
    if workers is not None and workers < 0:
        raise UserError(f"data.workers={workers} should be at least 0")
    if not 0 <= timeout <= LONGEST:
        raise UserError(f"data.timeout={timeout} should be in 0…{LONGEST} s; 0 waits for ever")
    for option, share in (("colour", colour), ("patches", patches), ("max_rejects", max_rejects)):
        if not 0 <= share <= 1:
            raise UserError(f"data.{option}={share} should be in 0…1")
    if not 0 < min_scale <= 1:
        raise UserError(f"data.min_scale={min_scale} should be above 0 and at most 1")
    if image_size < 4 or image_size % 4:
        near = max(4, image_size // 4 * 4)
        raise UserError(f"data.image_size={image_size} should be a multiple of 4, such as {near}")
    if smallest_size is not None and not (0 < smallest_size < image_size and smallest_size % STEP == 0):
        raise UserError(
            f"data.smallest_size={smallest_size} should be a multiple of {STEP}, below data.image_size={image_size}"
        )
    if pack not in ("auto", True, False):
        raise UserError(f"data.pack is auto, true or false, not {pack!r}")
    if unknown := set(filter(None, keep.split(","))) - set(KINDS[1:]):
        raise UserError(f"data.keep={keep}: {unknown.pop()!r} is none of {', '.join(KINDS[1:])}")
