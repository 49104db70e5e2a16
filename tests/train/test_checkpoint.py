"""Checkpoints: what goes in comes out, bit by bit; damage is found; a kill leaves a whole file."""

import copy
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bioshare.files import locked
from bioshare.nn import LocallyConnected2d
from bioshare.train import checkpoint
from bioshare.train.stored import UnreadableRunError

DTYPES = torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool


def assert_same(found, expected):
    """The same names, types, shapes and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(*(t.detach().reshape(-1).contiguous().view(torch.uint8) for t in (found[name], tensor)))


@st.composite
def tensors(draw):
    """A tensor of any type and layout, some of its values no numbers."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    seed = draw(st.integers(0, 1000))
    values = 100 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tensor = values.to(dtype)
    if draw(st.booleans()) and dtype.is_floating_point:
        tensor = tensor.where(tensor > 0, torch.nan)
    return tensor.permute(tuple(reversed(range(tensor.ndim)))) if draw(st.booleans()) else tensor


NAMES = st.text("abcdefgh.0123", min_size=1, max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values=st.dictionaries(NAMES, tensors(), max_size=5), metadata=st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, values, metadata):
    path = tmp_path_factory.mktemp("round") / "a" / "checkpoint.safetensors"
    checkpoint.write(path, values, metadata)
    found, stored = checkpoint.read(path)
    assert_same(found, values)
    assert stored == metadata == checkpoint.read_metadata(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_files_are_readable_as_other_new_files_are(tmp_path):
    checkpoint.write(tmp_path / "checkpoint", {"x": torch.ones(2)}, {})
    (tmp_path / "other").touch()
    assert (tmp_path / "checkpoint").stat().st_mode == (tmp_path / "other").stat().st_mode


def networks(fused, dtype):
    """Two of the same, with all that a state can have: buffers, permuted weights, a parameter without gradient."""
    for _ in range(2):
        torch.manual_seed(0)
        layers = LocallyConnected2d(1, 3, 3, input_size=6), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2)
        model = nn.Sequential(*layers)
        weight = layers[0].weight
        weight.data = torch.empty_like(weight.permute(2, 0, 1, 3, 4, 5).contiguous()).permute(1, 2, 0, 3, 4, 5)
        nn.init.normal_(weight)
        model.register_parameter("unused", nn.Parameter(torch.ones(2)))
        yield model.to(dtype), torch.optim.AdamW(model.parameters(), 1e-2, fused=fused)


def learn(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(step))
        model(x.to(model[0].weight)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_restored_run_goes_on_as_if_nothing_had_been(tmp_path, fused, dtype):
    path = tmp_path / "checkpoint.safetensors"
    with torch.random.fork_rng(devices=[]):
        (straight, its_optimizer), (broken, optimizer) = networks(fused, dtype)
        (fresh, fresh_optimizer), _ = networks(fused, dtype)
    learn(straight, its_optimizer, range(6))
    learn(broken, optimizer, range(3))
    checkpoint.write(path, checkpoint.state(broken, optimizer), {})
    parameters, strides = list(fresh.parameters()), [parameter.stride() for parameter in fresh.parameters()]
    assert not fresh[0].weight.is_contiguous()
    checkpoint.restore(fresh, fresh_optimizer, checkpoint.read(path)[0])
    assert all(now is then for now, then in zip(fresh.parameters(), parameters, strict=True))
    assert [parameter.stride() for parameter in fresh.parameters()] == strides
    assert fresh_optimizer.state[fresh[0].weight]["exp_avg"].stride() == fresh[0].weight.stride()
    assert fresh_optimizer.state[fresh[0].weight]["step"].item() == 3
    learn(fresh, fresh_optimizer, range(3, 6))
    assert_same(fresh.state_dict(), straight.state_dict())
    assert_same(checkpoint.state(fresh, fresh_optimizer), checkpoint.state(straight, its_optimizer))


def test_the_state_of_another_network_is_refused():
    with torch.random.fork_rng(devices=[]):
        (model, optimizer), _ = networks(True, torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="of the network that the configuration names"):
        checkpoint.restore(model, optimizer, checkpoint.state(other, torch.optim.AdamW(other.parameters())))
    assert_same(model.state_dict(), before)


SAMPLE = {"x": torch.arange(6.0), "flag": torch.tensor(True)}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "checkpoint.safetensors"
    checkpoint.write(path, SAMPLE, {"epoch": 3})
    return path.read_bytes()


@given(data=st.data())
def test_a_changed_bit_is_found_wherever_it_is(tmp_path_factory, sample, data):
    path = tmp_path_factory.mktemp("bit") / "checkpoint.safetensors"
    place, bit = data.draw(st.integers(0, len(sample) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(sample[:place] + bytes([sample[place] ^ (1 << bit)]) + sample[place + 1 :])
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        checkpoint.read(path)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
@pytest.mark.parametrize("read", [checkpoint.read, checkpoint.read_metadata])
def test_a_file_that_ends_early_is_refused(tmp_path, sample, kept, read):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(sample[:kept])
    with pytest.raises(ValueError, match=f"{path} is damaged.*Put a copy in its place"):
        read(path)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file(SAMPLE, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors is damaged, or no checkpoint"):
        checkpoint.read(tmp_path / "other.safetensors")


@pytest.mark.parametrize("read", [checkpoint.read, checkpoint.read_metadata])
@pytest.mark.parametrize("text", ["[" * 60_000 + "]" * 60_000, "[1]", "null", "5", "no JSON"])
def test_metadata_of_another_kind_are_refused(tmp_path, read, text):
    from safetensors.torch import save_file

    path, tensors = tmp_path / "checkpoint.safetensors", {"a": torch.ones(1)}
    save_file(tensors, path, {"metadata": text, "checksum": checkpoint._checksum(text, tensors)})
    with pytest.raises(UnreadableRunError, match=f"{path} is damaged.*Put a copy in its place"):
        read(path)


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.write(path, SAMPLE, {"epoch": 1})

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, name, full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.write(path, SAMPLE, {"epoch": 2})
    assert checkpoint.read_metadata(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def write_and_die(path: Path, name: str, call: int) -> None:
    """Write a checkpoint over the one that is there, in a process that kills itself at the n-th call of os.``name``."""
    torch.set_num_threads(1)
    true, calls = getattr(os, name), []

    def deadly(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return true(*arguments)

    setattr(os, name, deadly)
    checkpoint.write(path, {"x": torch.zeros(6)}, {"epoch": 2})


@pytest.mark.parametrize(
    ("name", "call", "epoch"), [("fsync", 1, 1), ("replace", 1, 1), ("fsync", 2, 2)], ids=["data", "rename", "folder"]
)
def test_a_kill_inside_a_write_leaves_the_last_or_the_new_checkpoint(tmp_path, name, call, epoch):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.write(path, SAMPLE, {"epoch": 1})
    process = multiprocessing.get_context("forkserver").Process(target=write_and_die, args=(path, name, call))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    found, metadata = checkpoint.read(path)
    assert metadata == {"epoch": epoch}
    assert_same(found, SAMPLE if epoch == 1 else {"x": torch.zeros(6)})
    with locked(tmp_path, path.name):  # as a run has it: what the dead one left is in nobody's way
        checkpoint.write(path, SAMPLE, {"epoch": 3})
    assert checkpoint.read_metadata(path) == {"epoch": 3}
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_keeps_every_digit(tmp_path):
    seconds = 0.1 + 0.2
    checkpoint.write(tmp_path / "c", {}, {"seconds": seconds, "nan": float("nan")})
    found = checkpoint.read_metadata(tmp_path / "c")
    assert found["seconds"] == seconds
    assert json.dumps(found["nan"]) == "NaN"


def test_a_layer_in_two_places_comes_back(tmp_path):
    layer = torch.nn.Linear(3, 3)
    model = torch.nn.Sequential(layer, torch.nn.ReLU(), layer)
    optimizer = torch.optim.RMSprop(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    checkpoint.write(tmp_path / "file", checkpoint.state(model, optimizer), {})
    again = copy.deepcopy(model)
    with torch.no_grad():
        again[0].weight.zero_()
    other = torch.optim.RMSprop(again.parameters())
    checkpoint.restore(again, other, checkpoint.read(tmp_path / "file")[0])
    assert torch.equal(again[2].weight, layer.weight)
    for mine, theirs in zip(again.parameters(), model.parameters(), strict=True):  # of an optimiser of one's own
        assert torch.equal(other.state[mine]["square_avg"], optimizer.state[theirs]["square_avg"])
