"""What the options of all commands share."""

import argparse


def positive(text: str) -> int:
    """An option that is a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def device(text: str) -> str:
    """An option that is a device of PyTorch which is there."""
    import torch  # takes a second, which the other commands need not wait

    try:
        wanted = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f'must be "cpu", "cuda" or "cuda:1"; got {text!r}') from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text!r}, but PyTorch sees {torch.cuda.device_count()} GPUs here")
    return text
