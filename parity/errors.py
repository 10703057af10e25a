"""The one exception that commands turn into a message and exit status 2."""


class Trouble(Exception):  # noqa: N818 - cmp(1) calls exit status 2 "trouble", and so do we
    """Something keeps the command from an answer: bad arguments, a failed baseline, damaged files, no place to train.

    The message says what was found, what is allowed and what to do.
    """
