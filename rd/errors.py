"""The one exception that stands for a user's mistake, and text of strangers as a terminal may show it."""

import unicodedata

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
