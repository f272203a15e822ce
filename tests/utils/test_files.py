from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from prospr_ops.utils.files import check_output, replacing


def _fill(path, kind, content):
    if kind == "file":
        path.write_text(content)
    else:
        path.mkdir()
        (path / "part").write_text(content)


def _content(path):
    return (path if path.is_file() else path / "part").read_text()


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("exists", [False, True])
def test_replacing(kind, exists, tmp_path):
    path = tmp_path / "model.x"
    if exists:
        _fill(path, kind, "old")
    with replacing(path) as unfinished:
        assert unfinished.parent == tmp_path
        assert unfinished.suffix == ".x"
        _fill(unfinished, kind, "new")
        assert path.exists() is exists
    assert _content(path) == "new"
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_replaces_a_file(tmp_path):
    path = tmp_path / "model"
    path.write_text("old")
    (tmp_path / ".model.old").mkdir()  # somebody else's
    with replacing(path) as unfinished:
        _fill(unfinished, "folder", "new")
    assert _content(path) == "new"
    assert sorted(file.name for file in tmp_path.iterdir()) == [".model.old", "model"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(kind, failure, tmp_path):
    path = tmp_path / "model.x"
    _fill(path, kind, "precious")

    def fail(unfinished):
        _fill(unfinished, kind, "half")
        raise failure

    with pytest.raises(failure), replacing(path) as unfinished:
        fail(unfinished)
    assert _content(path) == "precious"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("before", [None, "precious"])
def test_nothing_written_is_an_error_and_changes_nothing(before, tmp_path):
    path = tmp_path / "model.x"
    if before:
        path.write_text(before)
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.exists() is bool(before)


_KILLED = """
import os, pathlib, signal, sys
from prospr_ops.utils.files import replacing
with replacing(pathlib.Path(sys.argv[1])) as unfinished:
    with unfinished.open("w") as file:
        file.write("half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("precious")
    run = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert path.read_text() == "precious"


def test_check_output(tmp_path, monkeypatch):
    file = tmp_path / "model.keras"
    check_output(file, force=False)
    file.touch()
    check_output(file, force=True)
    with pytest.raises(FileExistsError, match=r"model\.keras exists; add --force"):
        check_output(file, force=False)
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent to write model\.x to"):
        check_output(tmp_path / "absent" / "model.x", force=True)
    # Root may write anywhere: tools/damage.py tries it as another user.
    monkeypatch.setattr(os, "access", lambda folder, *_, **__: folder != tmp_path)
    with pytest.raises(PermissionError, match=f"no permission to write to {tmp_path}"):
        check_output(file, force=True)
