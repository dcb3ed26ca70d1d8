"""The one exception a user is meant to read."""


class MoroError(Exception):
    """Bad input, said in one sentence: what was wrong, where, and what to do.

    The top-level scripts print the message alone (no traceback) and exit with status 1.
    """
