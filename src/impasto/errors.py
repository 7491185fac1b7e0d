"""Mistakes that the user can mend, and how they are told."""


class UserError(ValueError):
    """A mistake of the user's: the message names the offending value and the mend, in one line.

    Commands print it as `error: …` and exit with status 1; every other exception is a bug of ours.
    """


class TrainingError(UserError):
    """What ends a training on all ranks after the same step."""


class UnreadableError(UserError):
    """The system does not give a file's content, which may be sound."""


class PictureError(UserError):
    """One picture cannot be written as asked for, which says nothing of the next: a folder goes on."""


NO_PICTURE = "the network gives no picture: its file is damaged, or was made to deceive"


def one_line(said: object) -> str:
    """What a library's error or a hostile file says, of moderate length."""
    text = " ".join(str(said).split())
    return (text if len(text) <= 300 else f"{text[:299]}…") or type(said).__name__
