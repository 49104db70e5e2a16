"""Options of the commands that train, made from the configuration, the phases and `fit`.

Every field of a dataclass and every keyword of a function becomes an option; the docstring is the help. Only the given
options are stored, so that the experiment keeps all other settings.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import math
import re
from argparse import SUPPRESS
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bioshare.bridge import Phase
from bioshare.checks import real, whole
from bioshare.cli import path
from bioshare.train.config import (
    Convolutional,
    DatasetName,
    Every,
    ImageNet,
    LocallyConnected,
    OwnImages,
    TrainConfig,
)
from bioshare.train.experiments import Experiment
from bioshare.train.fitting import fit
from bioshare.train.phases import PHASES, phase_of
from bioshare.train.stored import differences

COPIES = {"cifar10-jpeg": "cifar10", "cifar10-jpeg-16": "cifar10-16"}
"""Data sets that store the images of a second data set differently."""

DIGITS_BATCH = 32
"""Different digits in a batch; the paper's 512 images would leave three steps to an epoch."""

APART_FROM_PHASES = {"layers"}
"""Fields of phases without an option: ``--layers`` is the kind of the network."""

LAYERS = {"convolutional": Convolutional, "locally-connected": LocallyConnected}
"""Networks by the words of ``--layers``."""

TIME_UP = 75
"""Exit status of an unfinished command, to be given again: EX_TEMPFAIL of sysexits.h."""


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Folder, time and threads.

    Attributes:
        to: folder of the run; None for runs/NAME/seedN.
        threads: threads of PyTorch on the CPU; None for PyTorch's default.
        minutes: stop after this time with checkpoints, and the exit status 75; the same command goes on (`train` needs
            --resume as well). None to train to the end.
    """

    to: Path | None = None
    threads: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.threads is not None:
            whole("threads", self.threads, "a number of threads", at_least=1)
        if self.minutes is not None:
            real("minutes", self.minutes, "a time above 0", above=0, array=False)


NAME: dict[str, Any] = {
    "dest": "name",
    "metavar": "NAME",
    "help": "an experiment that `list` prints: table1/cifar10/lc",
}
"""The first word of the commands for one experiment."""


def add_words(parser: argparse.ArgumentParser, command: str, first: Mapping[str, Any] = NAME) -> None:
    """Add the first word after a command, and all further words, which `read_options` reads."""
    parser.add_argument(**first)
    text = f"`{command} {first['metavar']} --help` prints them"
    parser.add_argument("options", nargs=argparse.REMAINDER, help=text).required = False


def read_options(
    command: str,
    words: Sequence[str],
    row: Experiment,
    computing: type,
    *,
    without: Iterable[str] = (),
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Read options from the command line; a misspelt option is refused with the nearest name.

    Args:
        command: the words before, for the help: "train table1/cifar10/conv".
        words: the words after.
        row: experiment with the default settings.
        computing: dataclass of further options.
        without: names that are no options here.

    Returns:
        The given options by name: fields of ``computing``, keywords of `fit`, and settings for `configured`.
    """
    program = f"python -m bioshare {command}"
    parser = argparse.ArgumentParser(program, f"{program} [options]", allow_abbrev=False)
    skipped, setting = {*without, "seconds"}, row.setting
    _add_fields(parser, "the run", computing, {}, skipped)
    _add_fields(parser, "computing", fit, {}, skipped)
    _add_fields(parser, "the experiment", TrainConfig, vars(setting), skipped)
    choices = parser.add_argument_group("parts of the experiment, each with options of its own")
    sleep = next(word for word, kind in PHASES.items() if kind is type(row.sleep))
    layers = next((word for word, kind in LAYERS.items() if kind is type(setting.network)), "the table's")
    images = f"training and test images: {', '.join(get_args(DatasetName))}, or images of your own from `prepare`"
    for flag, name, allowed, default, text in (
        ("--dataset", "source", None, setting.dataset_name, images),
        ("--layers", "layers", LAYERS, layers, "kind of the network"),
        ("--sleep", "sleep", PHASES, sleep, "phase after every n-th batch, see --every"),
    ):
        if name not in skipped:
            choices.add_argument(
                flag, dest=name, choices=allowed, default=SUPPRESS, help=f"{text} (default: {default})"
            )
    every = lambda text: None if text == "None" else int(text)
    text = f"number of batches from one phase to the next, ws(n) in the paper; None for never (default: {row.every})"
    choices.add_argument("--every", type=every, metavar="N", default=SUPPRESS, help=text)
    _add_fields(parser, "--every", Every, vars(row), skipped)
    _add_fields(parser, "--layers", LocallyConnected, vars(setting.network), skipped)
    if not isinstance(setting.network, Convolutional | LocallyConnected):
        _add_fields(parser, "the network", type(setting.network), vars(setting.network), skipped)
    _add_fields(parser, "optimiser", type(setting.optimizer), vars(setting.optimizer), skipped)
    _add_fields(parser, "--dataset imagenet", ImageNet, vars(setting.dataset), skipped)
    for word, kind in PHASES.items():
        defaults = vars(row.sleep) if word == sleep else {}
        _add_fields(parser, f"--sleep {word}", kind, defaults, skipped | APART_FROM_PHASES)
    namespace, unknown = parser.parse_known_args(words)
    if unknown:
        near = difflib.get_close_matches(unknown[0], parser._option_string_actions, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        if unknown[0].removeprefix("--").partition("=")[0] in skipped:
            hint += "; the experiments set this themselves (`train NAME` can change it)"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(namespace).items()}
    take = lambda kind: {name: given.pop(name) for name in inspect.signature(kind).parameters if name in given}
    return take(computing), take(fit), given


def _add_fields(
    parser: argparse.ArgumentParser, title: str, kind: Callable, defaults: Mapping[str, Any], without: set[str]
) -> None:
    """Add an option for every readable field with a default; mention fields with an option already."""
    hints, texts, again = get_type_hints(kind), _described(kind), []
    group = parser.add_argument_group(title)
    for name, parameter in inspect.signature(kind).parameters.items():
        flag, how = f"--{name.replace('_', '-')}", _reading(hints[name])
        if parameter.default is parameter.empty or how is None or name in without:
            continue
        if flag in parser._option_string_actions:
            again.append(flag)
            continue
        text = f"{texts.get(name, '').rstrip('.')} (default: {defaults.get(name, parameter.default)})"
        group.add_argument(flag, dest=name, default=SUPPRESS, help=text.replace("%", "%%").strip(), **how)
    group.description = f"as above: {', '.join(again)}" if again else None


def _reading(hint: Any) -> dict[str, Any] | None:
    """Arguments of ``add_argument`` for a type; None for an object, which has no option."""
    optional = NoneType in get_args(hint)
    kind = hint if get_origin(hint) in (None, Literal, tuple) else get_args(hint)[0]
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is tuple and get_args(kind)[0] in (str, float, int):
        return {"type": get_args(kind)[0], "nargs": "*"}
    if kind not in (int, float, str, Path):
        return None
    read = path if kind is Path else kind
    reader = lambda text: None if optional and text == "None" else read(text)
    reader.__name__ = kind.__name__  # for argparse's messages
    return {"type": reader}


def _described(kind: Any) -> dict[str, str]:
    """The descriptions of fields or arguments in a docstring, and in those of the base classes."""
    texts: dict[str, str] = {}
    for one in reversed(getattr(kind, "__mro__", (kind,))):
        section = re.search(r"(?:Args|Attributes):\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(one.__doc__ or ""), re.DOTALL)
        for names, text in re.findall(r"^ {4}([\w, ]+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.M):
            texts |= dict.fromkeys(re.split(r", *", names), " ".join(text.split()))
    return texts


def configured(row: Experiment, given: Mapping[str, Any]) -> tuple[TrainConfig, set[str]]:
    """The configuration of an experiment with the given settings, and the names of the settings that have a use."""
    used: set[str] = set()

    def changed(part: Any) -> Any:
        own = vars(part).keys() & given.keys() - APART_FROM_PHASES
        used.update(own)
        return dataclasses.replace(part, **{name: given[name] for name in own})

    source = given.get("source", row.setting.dataset)
    if isinstance(source, str) and source not in get_args(DatasetName):
        source = OwnImages(source)
    setting = dataclasses.replace(row.setting, dataset=source)
    if source == "digits":  # 1,437 images of 8 x 8 pixels: smaller batches, and the padding's share of an image
        smaller = {"batch_size": DIGITS_BATCH * setting.repetitions, "padding": setting.padding * 8 // 32}
        setting = dataclasses.replace(setting, **smaller)
    network: Any = setting.network
    if "layers" in given:
        if not isinstance(network, Convolutional | LocallyConnected):
            raise ValueError(f"--layers has no use in {row.name}, whose network is {network}")
        network = LAYERS[given["layers"]](network.architecture)
    parts = {"dataset": setting.dataset, "network": network, "optimizer": setting.optimizer}
    config = dataclasses.replace(changed(setting), **{name: changed(part) for name, part in parts.items()})
    used |= {"source", "layers", "every"} & given.keys()
    every = given.get("every", row.every)
    if every is None:
        return config, used
    sleep = changed(PHASES[given["sleep"]]() if "sleep" in given else row.sleep)
    used |= {"sleep", "count", "first"} & given.keys()
    phase = Every(every, phase_of(sleep, config.seed), given.get("count", row.count), given.get("first", row.first))
    return dataclasses.replace(config, phases=(phase, *config.phases)), used


def check_used(given: Mapping[str, Any], used: set[str], rows: str) -> None:
    """Raise ValueError for a setting without a use in any of the rows, and say which part has such an option."""
    for name in given.keys() - used:
        words = [word for word, kind in PHASES.items() if name in inspect.signature(kind).parameters]
        if words or name in ("sleep", "count", "first"):
            part = f"--every N{' and --sleep ' * bool(words)}{' or '.join(words)}"
        else:
            own = name in inspect.signature(LocallyConnected).parameters
            part = "--layers locally-connected" if own else "--dataset imagenet"
        raise ValueError(f"--{name.replace('_', '-')} has no use in {rows}: it needs {part}")


def comparable(experiment: Experiment, configs: Sequence[TrainConfig]) -> Experiment:
    """The experiment; without the paper's numbers if a run saw images that the paper's didn't see."""
    if all(COPIES.get(one.dataset_name, one.dataset_name) == experiment.setting.dataset_name for one in configs):
        return experiment
    numbers = dataclasses.asdict(experiment.paper).items()
    paper = {name: None if value is None else math.nan for name, value in numbers}
    return dataclasses.replace(experiment, paper=dataclasses.replace(experiment.paper, **paper))


def caution(pairs: Iterable[tuple[TrainConfig, TrainConfig]]) -> str:
    """A line with the differences of runs from the table's setting, but for the seed; nothing without differences."""
    changes = [change for config, reference in pairs for change in differences(config, reference)]
    short = lambda value: (  # a phase by interval and class: a sleep has dozens of fields
        ", ".join(f"ws({every.n}) {type(every.phase).__name__}" for every in value) or "none"
        if isinstance(value, tuple) and all(isinstance(item, Every) for item in value)
        else type(value).__name__
        if isinstance(value, Phase)
        else getattr(value, "name", value)  # data sets of two kinds
    )
    changes = ((name, short(own), short(other)) for name, own, other in changes if name not in ("seed", "pool_seed"))
    words = [f"{name} {own} instead of {other}" for name, own, other in changes]
    return f"\nNot the table's setting: {'; '.join(dict.fromkeys(words))}." if words else ""
