"""The one exception for mistakes that the user can mend."""


class UserError(ValueError):
    """A mistake of the user's: the message names the offending value and the mend, in one line.

    Commands print it as `error: …` and exit with status 1; every other exception is a bug of ours.
    """
