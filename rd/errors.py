"""The one exception that stands for a user's mistake; one line for what the machine did; what a terminal may show."""

import sqlite3
import unicodedata
import zipfile

LONGEST = 2000  # characters of an error; a line of a file may be a million long
JOINERS = "\u200c\u200d"  # invisible, and part of Persian words and of emoji


def visible(text: str) -> str:
    """The same text with whatever a terminal would obey, or could not print, written as an escape such as \\x1b.

    Control characters, line ends, marks of direction and halves of characters; letters, blanks and emoji stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in JOINERS or _blank(c) else _escaped(c) for c in text)


def _blank(sign: str) -> bool:
    return unicodedata.category(sign) == "Zs"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


class UserError(Exception):
    """Bad input: one clear line (file, line, what is wrong, what to do). The command line exits with 2.

    What it quotes of a file can neither break the line nor reach the terminal as a command; a long one loses its
    middle.
    """

    def __init__(self, message: str) -> None:
        text = visible(message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST - 500]} ... {text[-500:]}"
        super().__init__(text)


def machine_fault(error: BaseException) -> str | None:
    """One line for a fault of the disk, the memory or a database; None for anything else, which is a bug of ours."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError):  # a folder that is not there, a full disk, a file that may not be read
        why = error.strerror or said or type(error).__name__
        return why if error.filename is None else f"{error.filename}: {why}"
    if isinstance(error, sqlite3.Error | zipfile.BadZipFile):
        return f"{said or type(error).__name__}; is the disk full, or the file damaged?"
    torch_s = ("OutOfMemoryError", "can't allocate memory")  # torch's own errors, told without importing it
    if isinstance(error, MemoryError) or any(word in f"{type(error).__name__} {said}" for word in torch_s):
        return f"not enough memory ({said[:100] or 'none is left'}); give a smaller train.batch, or another machine"
    return None
