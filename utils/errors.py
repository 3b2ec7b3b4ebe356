"""The exception whose text is written for users, and `listed`, which shortens lists in it.

Any Python 3 must be able to read this file: `utils.environment` imports it.
"""


from collections.abc import Sequence


class UserError(ValueError):
    """A mistake that the user can mend: one line that names the file and the cure."""


def listed(
    items: "Sequence[str]", shown: int = 5, separator: str = ", ", kind: str = ""
) -> str:
    """The first items of a list and the number of the others: "a, b, and 7 more".

    Args:
        items: words or lines.
        shown: the number of items that are written out.
        separator: the text between two items, and before "and 7 more".
        kind: a noun for the other items: "and 7 more files".
    """
    words = list(items[:shown])
    if len(items) > shown:
        words.append(" ".join(["and", str(len(items) - shown), "more", kind]).rstrip())
    return separator.join(words)
