from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path

import pytest
from splade_edge.runtime.build import staging
from splade_edge.runtime.errors import InputError, SpladeEdgeError, StorageError
from splade_edge.runtime.files import safe_join, sha256_file, storage_errors, write_file_durably
from splade_edge.runtime.staged_file import staged_file

MANIFEST = "splade_edge.json"
staged_directory = partial(staging.staged_directory, manifest=MANIFEST)
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and limits")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def run_python(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def make(target: Path, content: str = "new", *, force: bool = False) -> None:
    with staged_directory(target, force=force) as staging:
        (staging / "splade_edge.json").write_text(content, "utf-8")
        (staging / "deep").mkdir()
        (staging / "deep/file").write_text(content, "utf-8")


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a/b"
    with staged_directory(target) as staging:
        (staging / "x").write_text("1", "utf-8")
        assert not target.exists()
    assert (target / "x").read_text("utf-8") == "1"
    assert names(target.parent) == ["b"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_directory(tmp_path / "a") as staging:
            (staging / "x").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == []


@pytest.mark.parametrize("atomic", [True, False])
def test_force_replaces_our_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool) -> None:
    if not atomic:
        monkeypatch.setattr(staging, "_renameat2", lambda *_: False)
    target = tmp_path / "a"
    make(target, "old")
    with pytest.raises(InputError, match="exists; pass --force to replace it"):
        make(target)
    assert (target / "deep/file").read_text("utf-8") == "old"
    make(target, force=True)
    assert (target / "deep/file").read_text("utf-8") == "new"
    assert names(tmp_path) == ["a"]


def test_an_error_under_force_leaves_the_old_directory(tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), staged_directory(tmp_path / "a", force=True):
        raise ZeroDivisionError
    assert (tmp_path / "a/deep/file").read_text("utf-8") == "old"
    assert names(tmp_path) == ["a"]


def test_force_does_not_replace_what_is_not_ours(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"has no splade_edge\.json, so it is not replaced"):
        make(home, force=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a directory"):
        make(tmp_path / "file", force=True)
    make(tmp_path / "ours")
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    with pytest.raises(InputError, match="link is a link, which is not replaced; name what it leads to"):
        make(tmp_path / "link", force=True)
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", force=True)
    assert (home / "thesis.txt").exists()
    staging.check_writable_target(tmp_path / "absent", manifest=MANIFEST, force=False)


KILLED_IN_THE_MIDDLE = """
    import sys
    from pathlib import Path
    from splade_edge.runtime.build.staging import staged_directory
    with staged_directory(Path(sys.argv[1]), manifest="splade_edge.json", force=True) as staging:
        (staging / "splade_edge.json").write_text("half")
        print("ready", flush=True)
        sys.stdin.read()
"""


@posix
def test_a_killed_writer_leaves_the_old_directory_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "a"
    make(target, "old")
    # staging directories of other targets, one of whose names begins like ours
    for other in (".splade-edge-other.12345678", ".splade-edge-a.v2.12345678.old"):
        (tmp_path / other).mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED_IN_THE_MIDDLE), str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    leftovers = [path for path in tmp_path.glob(".splade-edge-a.*") if "v2" not in path.name]
    assert len(leftovers) == 1
    make(target, "newer", force=True)  # a second writer leaves the staging directory of a live one alone
    assert leftovers[0].exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (target / "deep/file").read_text("utf-8") == "newer"
    make(target, "newest", force=True)
    assert (target / "deep/file").read_text("utf-8") == "newest"
    assert names(tmp_path) == [".splade-edge-a.v2.12345678.old", ".splade-edge-other.12345678", "a"]


@posix
def test_a_kill_between_two_renames_is_mended(tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    (tmp_path / "a").rename(tmp_path / ".splade-edge-a.12345678.old")
    with pytest.raises(ZeroDivisionError), staged_directory(tmp_path / "a", force=True):
        raise ZeroDivisionError
    assert (tmp_path / "a/deep/file").read_text("utf-8") == "old"


@pytest.mark.parametrize("force", [False, True])
def test_an_interrupt_right_after_mkdir_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    def interrupt(directory: Path) -> None:
        assert directory.is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(staging, "try_lock_directory", interrupt)
    with pytest.raises(KeyboardInterrupt), staged_directory(tmp_path / "a", force=force):
        pytest.fail("must not begin")
    assert names(tmp_path) == []


def test_a_file_that_cannot_be_begun_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(StorageError, match="cannot write"), staged_file(tmp_path / "file/below"):
        pytest.fail("must not begin")


@posix
@pytest.mark.parametrize("write", ["staged_directory", "write_file_durably", "staged_file"])
def test_a_full_disk_is_one_line(tmp_path: Path, write: str) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the write fails in the middle."""
    process = run_python(
        """
        import resource, signal, sys
        from pathlib import Path
        from splade_edge.runtime import files, staged_file
        from splade_edge.runtime.build import staging
        from splade_edge.runtime.errors import StorageError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        target = Path(sys.argv[1])
        try:
            if sys.argv[2] == "staged_directory":
                with staging.staged_directory(target, manifest="m") as directory, files.storage_errors(target):
                    (directory / "x").write_bytes(bytes(5000))
            elif sys.argv[2] == "staged_file":
                with staged_file.staged_file(target) as out:
                    out.write("x" * 5000)
            else:
                files.write_file_durably(target, bytes(5000))
        except StorageError as error:
            print(error)
        """,
        tmp_path / "a",
        write,
    )
    out, err = process.communicate()
    assert (err, out) == (
        "",
        f"cannot write {tmp_path / 'a'}: the file would exceed the size the system allows (ulimit -f)\n",
    )
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "reason"),
    [("ENOSPC", "the disk is full"), ("EROFS", "the file system is read-only"), ("EIO", "Input/output error")],
)
def test_reasons_of_a_failed_write(tmp_path: Path, number: str, reason: str) -> None:
    import errno

    code = getattr(errno, number)
    with pytest.raises(StorageError, match=reason), staged_directory(tmp_path / "a"), storage_errors(tmp_path):
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="no permission to write there; choose another output"):
            make(tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)


def test_errors_of_the_block_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="my corpus"), staged_directory(tmp_path / "a"):
        raise FileNotFoundError("my corpus")


@pytest.mark.parametrize("with_renameat2", [True, False])
@pytest.mark.parametrize("made", ["file", "directory", "of our kind"])
def test_what_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, with_renameat2: bool
) -> None:
    target = tmp_path / "a"
    if not with_renameat2:
        monkeypatch.setattr(staging, "_renameat2", lambda *_: False)
    monkeypatch.setattr(staging, "check_writable_target", lambda *_, **__: None)  # it appears behind the last look

    def write() -> None:
        with staged_directory(target):
            if made == "file":
                target.write_text("precious", "utf-8")
            else:
                target.mkdir()
                (target / ("precious" if made == "directory" else MANIFEST)).write_text("precious", "utf-8")

    with pytest.raises(InputError, match="made by another process meanwhile"):
        write()
    survivor = target if made == "file" else next(target.iterdir())
    assert survivor.read_text("utf-8") == "precious"
    assert names(tmp_path) == ["a"]


def test_force_looks_again_before_it_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a"

    def write() -> None:
        with staged_directory(target, force=True):
            target.mkdir()
            (target / "thesis.txt").touch()

    with pytest.raises(InputError, match="is not replaced"):
        write()
    assert names(target) == ["thesis.txt"]


@posix
def test_staged_file_writes_through_pipes_and_links(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text("utf-8")))
    reader.start()
    with staged_file(pipe) as out:
        out.write("through")
    reader.join()
    assert read == ["through"]
    assert pipe.is_fifo()
    (tmp_path / "target").write_text("old", "utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with staged_file(tmp_path / "link") as out:
        out.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text("utf-8") == "new"


def test_write_file_durably_replaces(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_file_durably(path, b"1")
    write_file_durably(path, b"22")
    assert path.read_bytes() == b"22"
    assert names(tmp_path) == ["f"]


def test_staged_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with staged_file(path) as out:
        out.write("é\n")
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()

    def fail() -> None:
        with staged_file(path) as out:
            out.write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == "é\n".encode()
    assert names(tmp_path) == ["f"]
    with pytest.raises(StorageError, match="No such file"), staged_file(tmp_path / "none/f"):
        pass


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "a//b", "", ".", "a\\b", "C:x", "a/./b", "a/"])
def test_safe_join_stays_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpladeEdgeError, match="names a file outside the directory"):
        safe_join(tmp_path, name)


def test_safe_join(tmp_path: Path) -> None:
    assert safe_join(tmp_path, "a/b.onnx") == tmp_path / "a" / "b.onnx"


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
