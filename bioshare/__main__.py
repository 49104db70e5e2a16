"""The command line of bioshare: simulated sleep for locally connected networks."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import bioshare
from bioshare.progress import one_line, say

COMMANDS = {
    "demo": ("bioshare.train.demo", "train small networks on digits, with and without sleep"),
    "list": ("bioshare.train.commands.listing", "the paper's experiments by name, with its numbers"),
    "prepare": ("bioshare.train.data.prepare", "turn a published data set into the file that training reads"),
    "train": ("bioshare.train.commands.train", "train one of the paper's experiments"),
    "table": ("bioshare.train.commands.table", "train a table of the paper, or of simulated sleep"),
    "sweep": ("bioshare.train.commands.sweep", "search the paper's grid over learning rate and weight decay"),
    "explore": ("bioshare.explorer.command", "move alpha and gamma by hand, in a browser or in a page for others"),
    "bench": ("bioshare.bench", "time the engines, the layer and a training step against their baselines"),
}
EPILOG = "An error is one line; BIOSHARE_TRACEBACK=1 in the environment adds the traceback."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; whatever it raises becomes a line and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or file without Greek letters, as on Windows
    try:
        run_command(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        say(str(error) or "interrupted")
        return 128 + getattr(error, "signal", signal.SIGINT)
    except BrokenPipeError:  # the reader has stopped, as in `list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain when it ends
        return 128 + signal.SIGPIPE
    except Exception as error:
        if os.environ.get("BIOSHARE_TRACEBACK") == "1":
            traceback.print_exc()
        text = one_line(error)
        if not isinstance(error, (ValueError, OSError, ArithmeticError, MemoryError)):
            text = f"{type(error).__name__}: {text} (BIOSHARE_TRACEBACK=1 in the environment adds the traceback)"
        say(f"error: {text}")
        return 1
    return 0


def run_command(arguments: Sequence[str]) -> None:
    """Run one command; the module of a command adds the options."""
    parser = argparse.ArgumentParser(prog="python -m bioshare", description=__doc__, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=bioshare.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (home, help_text) in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        if name in arguments[:1]:
            importlib.import_module(home).add_arguments(command)
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        last = f"; options come last: {chosen.command} {arguments[-1]} ..." if hasattr(chosen, "options") else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{last}")
    importlib.import_module(COMMANDS[chosen.command][0]).main(chosen)


if __name__ == "__main__":
    sys.exit(main())
