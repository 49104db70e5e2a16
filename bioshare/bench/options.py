"""Options that several benches have, and what they say."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bioshare.cli import device, positive

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def add_batches(parser: argparse.ArgumentParser, default: list[int] | None, told: str = "%(default)s") -> None:
    """Sizes of batches, each of which is measured."""
    parser.add_argument("--batches", type=positive, nargs="+", default=default, help=f"(default: {told})")


def add_dtypes(parser: argparse.ArgumentParser) -> None:
    """Types, each of which is measured."""
    told = "of automatic mixed precision; fp32 is without TF32 (default: fp32)"
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=["fp32"], help=told)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """The only type that is measured."""
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="(default: %(default)s)")


def add_machine_options(parser: argparse.ArgumentParser, repeats: int) -> None:
    """How often, and on what."""
    parser.add_argument("--repeats", type=positive, default=repeats, help="(default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--device", type=device, default="cpu", help="(default: %(default)s)")


@contextmanager
def without_tf32() -> Iterator[None]:
    """The same arithmetic for all in fp32: PyTorch would let convolutions alone round their factors to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
