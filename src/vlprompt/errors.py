"""The one error that people are meant to see."""


class UserError(Exception):
    """Something the user can mend.

    The message is one line that names the value, the place and the remedy. The command prints it
    and exits with code 2; the library raises it.
    """
