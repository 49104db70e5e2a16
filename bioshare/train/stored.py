"""Configurations as text: one JSON text in every checkpoint and result, and the configuration again."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bioshare.bridge import Phase
from bioshare.bridge.scaling import NormalisedRule, PaperRule, PerInput
from bioshare.circuit import rules
from bioshare.circuit.circuits import RateCircuit, SteadyState
from bioshare.circuit.stimuli import Stimulus
from bioshare.train import config as parts
from bioshare.train.config import Network, TrainConfig

FORMAT = 2
"""Version of the files of a run, written into every configuration; a file of another version is refused. Version 1 has
no number."""


class UnreadableRunError(ValueError):
    """A file of a run is damaged, or was written by another version of bioshare."""


def check_file(path: Path) -> None:
    """Check that a file of a run, if there, is a regular file: a named pipe would be waited for without end."""
    if path.exists() and not path.is_file():
        raise UnreadableRunError(f"{path} must be a regular file, no folder, named pipe or device. Move it away")


STORABLE: list[type] = [
    *(
        parts.ImageData,
        parts.ImageNet,
        parts.OwnImages,
        parts.Convolutional,
        parts.LocallyConnected,
        parts.AdamW,
        parts.Adam,
        parts.SGD,
        parts.FeedbackWeights,
        parts.DirectFeedback,
        parts.Every,
        parts.Snapshot,
    ),
    *(TrainConfig, RateCircuit, SteadyState, NormalisedRule, PaperRule, PerInput),
    *(rules.Hebbian, rules.Gated, rules.InverseDecay, rules.InverseSqrtDecay),
]
"""Dataclasses that a configuration may hold, beside every subclass of `Phase`, `Stimulus` and `Network`."""


def config_text(config: TrainConfig) -> str:
    """A configuration as JSON, with the version of the format; floats keep every bit.

    Raises:
        ValueError: a part can't be written, such as a function in a phase; the message names the part.
    """
    return json.dumps({"format": FORMAT} | _encoded(config, "config"))


def _encoded(value: Any, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"type": "float", "text": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_encoded(item, f"{name}[{index}]") for index, item in enumerate(value)]
    derived = isinstance(value, Phase | Stimulus | Network)
    if not (dataclasses.is_dataclass(value) and (derived or type(value) in STORABLE)):
        raise ValueError(
            f"{name} must be a number, a text, a tuple or a dataclass that can be stored with the run; got {value!r}. "
            "Make a phase a frozen dataclass, and a function one with __call__; append any other class to "
            "bioshare.train.stored.STORABLE"
        )
    if (other := known_classes().get(type(value).__name__)) not in (None, type(value)):
        raise ValueError(
            f"{name} must have a class with a name of its own, by which files know it; there is another "
            f"{other.__module__}.{other.__name__}. Rename the class"
        )
    own = [field.name for field in dataclasses.fields(value) if field.init]
    return {"type": type(value).__name__} | {field: _encoded(getattr(value, field), f"{name}.{field}") for field in own}


def config_of(text: object, path: Path) -> TrainConfig:
    """The configuration of a text.

    Args:
        text: a text of `config_text`; anything else is from an older version.
        path: the file of the text, for messages.

    Raises:
        UnreadableRunError: the text is from another version of bioshare, or names a type unknown to this process.
    """
    older = f"{path} was written by an older version of bioshare; train the run anew"
    try:
        fields = json.loads(text)  # pyright: ignore[reportArgumentType]
        version = fields.pop("format", 1)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UnreadableRunError(older) from error
    if version != FORMAT:
        newer = f"{path} was written by a newer version of bioshare (format {version}; this version has {FORMAT}); "
        raise UnreadableRunError(older if version == 1 else f"{newer}update bioshare, or train the run anew")
    known = known_classes()

    def decoded(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(map(decoded, value))
        if not isinstance(value, dict):
            return value
        name = value.pop("type")
        if name == "float":
            return float(value["text"])
        if name not in known:
            raise ValueError(f"the run holds a {name}, a type that isn't known: import the module that defines {name}")
        return known[name](**{field: decoded(item) for field, item in value.items()})

    try:
        config = decoded(fields)
        if not isinstance(config, TrainConfig):
            raise TypeError(f"config must be a TrainConfig; got {config!r:.80}")
        return config
    except (TypeError, KeyError, RecursionError) as error:
        raise UnreadableRunError(f"{older} ({error})") from error
    except ValueError as error:
        raise UnreadableRunError(f"{path} can't be read: {error}") from error


def known_classes() -> dict[str, type]:
    """The classes of parts of a configuration by name; of two with one name bioshare's, or the newer."""
    import bioshare.train.networks
    import bioshare.train.phases  # noqa: F401 (define the networks and the phases of the command line)

    subclasses = lambda kind: [kind, *(one for sub in kind.__subclasses__() for one in subclasses(sub))]
    derived = [one for base in (Phase, Stimulus, Network) for one in subclasses(base)]
    derived.sort(key=lambda kind: kind.__module__.split(".")[0] == "bioshare")
    return {kind.__name__: kind for kind in (*derived, *STORABLE)}


NAMES = {"n": "every", "name": "dataset"}
"""Names in messages for fields whose own names say little without the class."""


def differences(ours: Any, theirs: Any, name: str = "config") -> Iterator[tuple[str, Any, Any]]:
    """Names and both values of all differences of two configurations."""
    objects = isinstance(ours, tuple) and any(map(dataclasses.is_dataclass, ours))
    if objects and len(ours) == len(theirs):
        for mine, other in zip(ours, theirs, strict=True):
            yield from differences(mine, other, name)
    elif type(ours) is type(theirs) and dataclasses.is_dataclass(ours):
        for field in dataclasses.fields(ours):
            if field.init:
                values = getattr(ours, field.name), getattr(theirs, field.name)
                yield from differences(*values, NAMES.get(field.name, field.name))
    elif ours != theirs:
        yield name, ours, theirs


def check_same(config: TrainConfig, text: object, path: Path, longer: bool = False) -> None:
    """Check that the configuration in a file is the configuration of the run; an error names all differences.

    Args:
        config: configuration of the run.
        text: configuration in the file.
        path: the file, for messages.
        longer: allow the run to have more epochs.
    """
    allowed = lambda name, now, was: longer and name == "epochs" and now > was
    unequal = [one for one in differences(config, config_of(text, path)) if not allowed(*one)]
    changed = [f"{name} was {was} and is now {now}" for name, now, was in unequal]
    if changed:
        raise ValueError(
            f"config must be that of the run in {path.parent}: {', '.join(dict.fromkeys(changed))}. Take another "
            "folder (--to), or the same options"
        )
