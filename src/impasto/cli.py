"""What the entry points share: `key=value` words, help, one-line errors, log lines."""

import errno
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, TextIO, TypeVar

from impasto.assets import nearest
from impasto.errors import UserError
from impasto.memory import is_shortage, keep_freed_memory
from impasto.stopping import leave_terminal

Options = TypeVar("Options")

LISTS = ("data.keep",)  # which may be empty
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(command: Callable[[list[str]], None], usage: str) -> None:
    """Run an entry point on the words of the command line.

    A mistake of the user's becomes one line on stderr and exit status 1; Ctrl-C exits with 130, SIGTERM and a closed
    terminal with 143 and 129: what is half written vanishes.
    """
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # which Windows lacks
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names need not be UTF-8; stderr does so by itself
    log_to(sys.stdout)
    keep_freed_memory()
    words = sys.argv[1:]
    try:
        if {"-h", "--help"} & set(words):
            say(usage.strip())
        else:
            command(words)
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.strerror is None:
            raise
        place = f": {os.fsdecode(error.filename)!r}" if error.filename else ""
        sys.exit(f"error: {error.strerror}{place}")
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or is_shortage(error)):
            raise
        sys.exit("error: this takes more memory than there is: smaller sizes and strokes take less")
    except KeyboardInterrupt:
        sys.exit(130)


def _end(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGTERM:
        leave_terminal()
    sys.exit(128 + number)


def parse(words: Sequence[str], options: type[Options]) -> Options:
    """Read `key=value` words into a dataclass: values are literal, so that a path needs no quoting.

    Raises `UserError` for an unknown key, one said twice, a value of another type or a missing one.
    """
    from omegaconf import OmegaConf, ValidationError

    config = OmegaConf.structured(options)
    known = list(config)
    said = dict[str, str]()
    for word in words:
        key, separator, value = word.partition("=")
        if word == "=" or (key in known and not separator):
            raise UserError(f"{word!r} is not understood: write {key or 'key'}=value without spaces around =")
        if key not in known or not separator:
            raise UserError(f"{word!r} is not understood{nearest(key, known)}; write key=value with {', '.join(known)}")
        if key in said:
            raise UserError(f"{word!r} comes after {said[key]!r}: say one of them")
        said[key] = word
        try:
            OmegaConf.update(config, key, _escaped(at_home(value)))
        except ValidationError as error:
            raise UserError(f"{word!r} does not do: {str(error).splitlines()[0]}") from None
    if missing := [key for key in known if OmegaConf.is_missing(config, key) or config[key] == ""]:
        raise UserError(f"{missing[0]}=… is missing; --help shows examples")
    return OmegaConf.to_object(config)  # type: ignore[return-value]  # typed as Any container


def check_counts(options: object, *names: str) -> None:
    """Raise `UserError` where one of these numbers is below 1; None is left to the program."""
    for name in names:
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"{name}={value} should be at least 1")


def literal(word: str, keys: Collection[str]) -> str:
    """Quote the value of `key=value` for Hydra where the key's value is a path or a name, to be taken as it is.

    Hydra's grammar gives commas, parentheses, quotes, `=` and `$` meanings of their own. Raises `UserError` where it
    is empty.
    """
    key, separator, value = word.partition("=")
    if not separator or key.lstrip("+") not in keys:
        return word
    if not value and key not in LISTS:  # of a shell's variable that is not set
        raise UserError(f"{key}=… is missing; --help shows examples")
    value = _escaped(at_home(value))
    value = re.sub(r"(\\*)'", r"\1\1\\'", value)  # a quote and the backslashes before it
    value = re.sub(r"(\\+)$", r"\1\1", value)
    return f"{key}='{value}'"


def at_home(value: str) -> str:
    """A path with the home folder for `~`, which shells leave alone in `key=~/path`."""
    return os.path.expanduser(value) if re.match(r"~(/|$)", value) else value


def _escaped(value: str) -> str:
    """A value in which OmegaConf sees no interpolation: `${` and the backslashes before it are escaped."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)


def log_to(output: TextIO) -> None:
    """Lines of ours to `output`, warnings to stderr, as plain text."""

    class _Stream(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            stream = sys.stderr if record.levelno >= logging.WARNING else output
            prefix = "warning: " if record.levelno >= logging.WARNING else ""
            try:
                say(prefix + record.getMessage(), stream)
            except OSError as error:  # a log on a full disk ends no work; what waits in the stream comes with the next
                if error.errno not in FULL:
                    raise

    log = logging.getLogger("impasto")
    log.handlers = [_Stream()]
    log.setLevel(logging.INFO)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line; where who reads lines has gone, as `head` does, it and all others are lost, and no work is."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        with suppress(io.UnsupportedOperation):  # of one that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def flatten(config: Any, prefix: str = "") -> list[str]:
    """Dotted names of all keys of a nested mapping."""
    names = []
    for key, value in config.items():
        names.append(f"{prefix}{key}")
        if hasattr(value, "items"):
            names += flatten(value, f"{prefix}{key}.")
    return names
