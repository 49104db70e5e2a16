import errno
import fcntl
import multiprocessing
import os
import re
import stat
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bioshare.files import FolderInUseError, expanded, locked, replacing


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


def take_turns(folder, turns):
    """Enter and leave a folder so many times; the number of times that another process was inside, too."""
    taken = intrusions = 0
    while taken < turns:
        with suppress(FolderInUseError), locked(folder):
            taken += 1
            try:
                (folder / "inside").touch(exist_ok=False)
                (folder / "inside").unlink()
            except FileExistsError:
                intrusions += 1
    return intrusions


TAKE_TURNS = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_files import take_turns
print(take_turns(Path(sys.argv[1]), 250))
"""


def test_of_four_processes_that_take_turns_two_are_never_inside(tmp_path):
    with ExitStack() as stack:
        start = lambda: subprocess.Popen([sys.executable, "-c", TAKE_TURNS, tmp_path], stdout=subprocess.PIPE)
        processes = [stack.enter_context(start()) for _ in range(4)]
        assert [process.communicate(timeout=60)[0] for process in processes] == [b"0\n"] * 4
    assert not list(tmp_path.iterdir())


def test_who_opened_the_file_of_the_lock_before_another_deleted_it_locks_the_new_one(monkeypatch, tmp_path):
    first, lock = ExitStack(), fcntl.flock
    first.enter_context(locked(tmp_path))

    def late(*arguments):
        monkeypatch.undo()
        first.close()
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path, seconds=30), pytest.raises(FolderInUseError), locked(tmp_path):
        pass


def test_a_process_waits_for_a_folder_as_long_as_it_is_asked_to(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(30)
    with pytest.raises(FolderInUseError), locked(tmp_path, seconds=0.1):
        pass
    done.set()
    with locked(tmp_path, seconds=30):
        assert (tmp_path / ".lock").exists()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("text", ["~/runs/mine", "$SOMEWHERE/runs/mine", "${SOMEWHERE}/runs/mine"])
def test_the_home_folder_and_variables_are_replaced_in_a_path(text, monkeypatch, tmp_path):
    for name in ("HOME", "USERPROFILE", "SOMEWHERE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert expanded(text) == expanded(Path(text)) == tmp_path / "runs" / "mine"
    assert expanded("here/a~") == Path("here/a~")


@pytest.mark.parametrize("text", ["~nobody-of-this-name/runs", "$NO_SUCH_VARIABLE/runs", "runs/${NO_SUCH_VARIABLE}"])
def test_a_user_or_a_variable_that_does_not_exist_is_no_name_of_a_folder(text):
    with pytest.raises(ValueError, match=r"exist; .* has (~nobody-of-this-name|\$\{?NO_SUCH_VARIABLE)"):
        expanded(text)


@pytest.mark.parametrize("path", [None, 0, 5, True, b"runs", [], ["runs"], {}, 1.5, object()])
def test_what_is_neither_text_nor_a_path_is_refused_by_name(path):
    with pytest.raises(TypeError, match=r"^folder must be text or a pathlib.Path; got "):
        expanded(path, "folder")


def test_an_empty_path_is_not_the_current_folder(tmp_path):
    with pytest.raises(ValueError, match=r'^path must not be empty; the current folder is "\."$'):
        expanded("")
    with os.scandir(tmp_path.parent) as entries:  # the operating system's own paths are paths, too
        assert tmp_path in {expanded(entry) for entry in entries}


def failing(code):
    def fails(*arguments, **options):
        raise OSError(code, os.strerror(code))

    return fails


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_fsync_permissions_or_locks_gets_its_files(code, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "fsync", failing(code))
    monkeypatch.setattr(Path, "chmod", failing(errno.EPERM))
    monkeypatch.setattr("fcntl.flock", failing(errno.ENOLCK))
    with locked(tmp_path), replacing(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "whole"


def test_a_folder_that_cannot_be_opened_as_on_windows_gets_its_files(monkeypatch, tmp_path):
    open_file = os.open

    def files_only(path, *arguments):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *arguments)

    monkeypatch.setattr(os, "open", files_only)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_data_that_did_not_reach_the_disk_are_an_error_with_the_name_of_the_file(code, monkeypatch, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", failing(code))
    message = re.escape(f"{os.strerror(code)}, while the file was written: {str(path)!r}")
    with pytest.raises(OSError, match=message), replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("wait_there", [os.mkfifo, lambda path: path.symlink_to(path.with_name("precious"))])
def test_pipes_and_links_that_wait_in_the_folder_are_left_alone(wait_there, tmp_path):
    """Under all names that a temporary file has had, and under the name of the file."""
    (tmp_path / "precious").write_text("mine")
    waiting = [tmp_path / name for name in (".file.tmp", "file.tmp", ".tmp", "file")]
    for path in waiting:
        wait_there(path)
    with replacing(tmp_path / "file") as temporary:
        assert temporary.name == "file"
        assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700
        temporary.write_text("page")
    assert (tmp_path / "precious").read_text() == "mine"
    assert stat.S_ISREG((tmp_path / "file").lstat().st_mode)
    assert (tmp_path / "file").read_text() == "page"
    assert sorted(tmp_path.iterdir()) == sorted([*waiting, tmp_path / "precious"])


def test_of_two_writers_at_once_both_end_and_the_file_is_whole(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first:
        first.write_text("first, ")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
        first.write_text("first, and all of it")
    assert path.read_text() == "first, and all of it"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_has_the_permissions_that_the_umask_leaves(umask, tmp_path):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from bioshare.files import locked, replacing
with locked(Path(sys.argv[1])):
    blocks = [replacing(Path(sys.argv[1], name)) for name in ("result.nc", "theirs")]
    for block in blocks:
        (block.__enter__().parent / ".tmp3x").write_text("half of what a library wri")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_process_deletes_what_a_killed_one_left_of_its_own_files_only(tmp_path):
    killed = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, tmp_path], check=False)
    assert killed.returncode == -9
    left = sorted(tmp_path.glob(".*.tmp"))
    assert [path.name.rsplit(".", 2)[0] for path in left] == [".result.nc", ".theirs"]
    with locked(tmp_path, "result.nc"):
        assert sorted(tmp_path.glob(".*.tmp")) == left[1:]
