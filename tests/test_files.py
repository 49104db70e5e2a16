import multiprocessing

import pytest

from bioshare.files import locked, replacing


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "new" / "file"
    with replacing(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(TypeError), replacing(path) as temporary:
        temporary.write_bytes([b"half of the sec", None])
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def hold(folder, ready, done):
    with locked(folder):
        ready.set()
        done.wait(30)


def test_a_second_process_is_kept_out_until_the_first_is_gone_even_by_a_kill(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(30)
    with pytest.raises(ValueError, match="folder must have no other process training in it"), locked(tmp_path):
        pass
    process.kill()
    process.join(30)
    with locked(tmp_path):
        assert process.exitcode == -9
