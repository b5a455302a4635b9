"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """Bad input: one clear line (file, line, what is wrong, what to do). The command line exits with 2."""
