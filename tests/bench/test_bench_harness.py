import os
from functools import partial

import pytest
import torch

from bioshare.bench import harness
from bioshare.bench.harness import BenchTable, available_bytes, peak_bytes, turns, without_tf32

CPU = torch.device("cpu")


def test_works_take_turns_and_are_yielded_after_their_last_turn():
    done = []
    works = {name: partial(done.append, name) for name in "ab"}
    seen = [(name, len(done)) for name, seconds in turns(works, 3, CPU) if seconds >= 0]
    assert done == [*"ababab"]
    assert seen == [("a", 5), ("b", 6)]


@pytest.mark.skipif(available_bytes(CPU) is None, reason="counts memory on Linux only")
def test_available_memory_is_a_part_of_all_memory():
    available = available_bytes(CPU)
    assert available is not None
    assert 1e6 < available < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def ten_megabytes():
    """Blocks that the heap keeps when they are freed, since the last one stays."""
    blocks = lambda: [torch.ones(25_000) for _ in range(100)]
    *_, last = blocks()
    return lambda: (blocks(), last)


@pytest.mark.skipif(available_bytes(CPU) is None, reason="counts memory on Linux only")
def test_memory_that_is_free_before_the_work_counts_as_the_work_takes_it():
    assert 9e6 < (peak_bytes(ten_megabytes, CPU) or 0) < 15e6


def test_a_turn_of_a_gpu_is_many_calls(monkeypatch):
    done = []
    monkeypatch.setattr(harness, "seconds_per_call", lambda work, calls, device: done.append(calls) or 0.03)
    assert dict(turns({"a": print}, 2, torch.device("cuda"))) == {"a": 0.03}
    assert done == [1, 7, 7]


def test_fp32_is_without_tf32_only_inside_of_the_block():
    flags = lambda: (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    before = flags()
    with without_tf32():
        assert flags() == (False, False)
    assert flags() == before


def test_a_table_prints_its_columns_and_keeps_all_values(capsys):
    table = BenchTable("name 5 s | ms / |x| 7 .1f | n 1 d")
    table.add({"name": "a", "ms / |x|": 12.345, "more": 1})
    table.add({"name": "b", "ms / |x|": None, "n": 3})
    assert capsys.readouterr().out == "name   ms / |x|  n\na          12.3  -\nb             -  3\n"
    assert table.records == [{"name": "a", "ms / |x|": 12.345, "more": 1}, {"name": "b", "ms / |x|": None, "n": 3}]
