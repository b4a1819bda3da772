"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """Something that was asked for or given can't be used; the message says what, its value, and what to do.

    A command shows it as one line and ends with exit code 1. Every other exception is a fault of this program
    and keeps its traceback.
    """
