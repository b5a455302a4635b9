"""The one exception that stands for a user's mistake, and one line for what the machine did."""

import sqlite3
import zipfile


class UserError(Exception):
    """Bad input: one clear line (file, line, what is wrong, what to do). The command line exits with 2."""


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
