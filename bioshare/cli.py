"""Types of command-line options."""

import argparse
from pathlib import Path

from bioshare.files import expanded


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def path(text: str) -> Path:
    """A path; ~ and variables of the environment are replaced."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device(text: str) -> str:
    """A device that PyTorch sees."""
    import torch  # takes a second

    try:
        wanted = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f'must be "cpu", "cuda" or "cuda:1"; got {text!r}') from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text!r}, but PyTorch sees {torch.cuda.device_count()} GPUs here")
    return text
