"""What the options of all commands share."""

import argparse


def positive(text: str) -> int:
    """An option that is a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number
