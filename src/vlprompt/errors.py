"""The one error that people are meant to see."""

LONGEST = 1000
"""Characters of a message; of a longer one the middle is left out."""


class UserError(Exception):
    """Something the user can mend.

    The message is one line that names the value, the place and the remedy, whatever the value holds. The
    command prints it and exits with code 2; the library raises it.
    """

    def __init__(self, message: str):
        line = printable(" ".join(message.split("\n")))
        half = LONGEST // 2
        super().__init__(line if len(line) <= LONGEST else f"{line[:half]} ... {line[-half:]}")


def printable(text: str) -> str:
    """Text of others, such as a file's name, that is safe to print in one line."""
    return "".join(c if c.isprintable() else "?" for c in text)
