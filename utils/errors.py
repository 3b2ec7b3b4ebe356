"""The one exception that a user, not a developer, is meant to read, and how it counts up things.

Any Python 3 must be able to read this file: `utils.environment` imports it.
"""


from collections.abc import Sequence


class UserError(ValueError):
    """A mistake that the user can mend: one line that names the file and the cure."""


def listed(
    items: "Sequence[str]", shown: int = 5, separator: str = ", ", kind: str = ""
) -> str:
    """The first few of many words or lines, and how many more there are: "a, b, and 7 more".

    Args:
        items: the words or lines.
        shown: how many of them are written out.
        separator: what stands between them, and before "and 7 more".
        kind: what the others are: "and 7 more files".
    """
    words = list(items[:shown])
    if len(items) > shown:
        words.append(" ".join(["and", str(len(items) - shown), "more", kind]).rstrip())
    return separator.join(words)
