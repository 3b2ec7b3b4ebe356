"""The one exception that a user, not a developer, is meant to read."""


class UserError(ValueError):
    """A mistake that the user can mend: one line that names the file and the cure."""
