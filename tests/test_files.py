import errno
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from bioshare.files import expanded, locked, replacing


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


def failing(code):
    def fails(*arguments, **options):
        raise OSError(code, os.strerror(code))

    return fails


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_fsync_permissions_or_locks_gets_its_files(code, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "fsync", failing(code))
    monkeypatch.setattr(Path, "chmod", failing(errno.EPERM))
    monkeypatch.setattr("bioshare.files.fcntl.lockf", failing(errno.ENOLCK))
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
