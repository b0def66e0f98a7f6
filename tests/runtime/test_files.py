"""Folders that are refused, the cache folder, and errors of the disk."""

import os
import pathlib
import shlex
import stat
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from mmgc_jax.runtime import files
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.training import checkpoints

ROOT = pathlib.Path(__file__).parents[2]


def test_the_cache_folder_follows_the_xdg_specification(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert files.cache_folder() == tmp_path / "cache" / "mmgc_jax"
    assert files.cache_folder().is_dir()
    for not_absolute in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", not_absolute)
        assert files.cache_folder() == tmp_path / "home" / ".cache" / "mmgc_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == tmp_path / "home" / ".cache" / "mmgc_jax"
    assert files.cache_folder_or_none() == files.cache_folder()


LOOK = """
import logging, os, sys
from mmgc_jax.runtime import files
from mmgc_jax.runtime.errors import InputError

logging.basicConfig(format="warning: %(message)s")
os.setuid({user})
try:
    print("folder:", files.cache_folder())
except InputError as error:
    print("error:", error)
print("or", files.cache_folder_or_none())
"""


def look(user: int = 0, **environment) -> tuple[list[str], str]:
    """Looks for the cache folder in a process of another user; returns its output and its log."""
    process = subprocess.run(
        [sys.executable, "-c", LOOK.format(user=user)],
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return process.stdout.splitlines(), process.stderr


@pytest.fixture
def open_folder():
    """A folder that all users may enter, unlike `tmp_path`, with a folder that user 12345 owns."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        (folder / "closed" / "mmgc_jax").mkdir(parents=True)
        (folder / "own").mkdir()
        os.chown(folder / "own", 12345, -1)
        yield folder


as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to change the user")


@as_root
@pytest.mark.parametrize(
    ("user", "environment", "reason"),
    [
        (12345, {}, "There is no home folder for the cache."),
        (12345, {"HOME": "{}"}, "{}/.cache/mmgc_jax cannot be created: Permission denied."),
        (12345, {"XDG_CACHE_HOME": "{}/closed"}, "{}/closed/mmgc_jax cannot be written to."),
        (0, {"HOME": "/proc/nothing"}, "/proc/nothing/.cache/mmgc_jax cannot be created: No such"),
        (0, {"HOME": "somewhere"}, "HOME is not an absolute path: somewhere"),
    ],
    ids=["no home", "closed home", "closed cache", "impossible home", "relative home"],
)
def test_without_a_cache_folder_the_error_says_what_to_set(open_folder, user, environment, reason):
    environment = {name: value.format(open_folder) for name, value in environment.items()}
    [error, fallback], log = look(user, **environment)
    assert error.startswith("error: ") and reason.format(open_folder) in error
    assert "Set XDG_CACHE_HOME (or HOME) to a folder that you can write to." in error
    assert fallback == "or None"
    assert log.startswith("warning: No cache is used.") and "Traceback" not in log


@as_root
def test_a_user_without_a_passwd_entry_can_set_the_cache_folder(open_folder):
    [found, _], log = look(12345, XDG_CACHE_HOME=str(open_folder / "own"))
    assert found == f"folder: {open_folder}/own/mmgc_jax" and not log


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """Raises and catches an exception, with a cause if given; returns it."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def while_handling(first: BaseException, second: BaseException) -> BaseException:
    try:
        try:
            raise first
        except BaseException:
            raise second  # noqa: B904, its context is what is tested
    except BaseException as caught:
        return caught


FULL, READ_ONLY = "No space left on device", "Read-only file system"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "of any language"), FULL),
        (OSError(122, "Disk quota exceeded"), "Disk quota exceeded"),
        (OSError(30, READ_ONLY), READ_ONLY),
        (OSError(5, FULL), None),
        (ValueError(FULL), None),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte."), None),
        (raised(RuntimeError("a worker ended"), OSError(28, FULL)), FULL),
        (raised(RuntimeError("told otherwise"), None), None),
        (while_handling(OSError(28, FULL), KeyError("cleaning up")), FULL),
        (ExceptionGroup("threads", [KeyError(), raised(KeyError(), OSError(28, ""))]), FULL),
        (ValueError("DENIED: Failed to open: \"a\": x [os_error_code='30'] [y='z']"), READ_ONLY),
        (ValueError("NOT_FOUND: Failed to open: \"a\": No such file [os_error_code='2']"), None),
        (RuntimeError(f"Failed to finalize: write() failed: {FULL}; writing /a; at byte 3"), FULL),
        (RuntimeError("write() failed: Input/output error; writing /No space left"), None),
    ],
)  # fmt: skip
def test_disk_errors_are_distinguished_from_others(error, reason):
    assert files.disk_error(error) == reason


def test_an_exception_that_is_its_own_cause_ends_the_search():
    first, second = KeyError(1), KeyError(2)
    first.__cause__, second.__cause__ = second, first
    assert files.disk_error(first) is None


def write_twice(file: pathlib.Path) -> None:
    for content in (b"first", b"second"):
        files.write_atomically(file, lambda stream, content=content: stream.write(content))


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    file = tmp_path / "folder" / "file"
    write_twice(file)

    def fail(stream):
        stream.write(b"third")
        assert file.read_bytes() == b"second"
        raise ValueError

    with pytest.raises(ValueError):
        files.write_atomically(file, fail)
    assert file.read_bytes() == b"second"


def test_the_target_of_a_link_is_replaced_and_not_the_link(tmp_path):
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "link").symlink_to("target")
    with (tmp_path / "target").open("rb") as before:
        write_twice(tmp_path / "link")
        assert before.read() == b""  # not written into
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"second"
    assert sorted(os.listdir(tmp_path)) == ["link", "target"]


def test_a_fifo_is_written_into(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # Both ends are open, so that nothing waits, and reading fails if nothing was written.
    end = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        write_twice(fifo)
        assert os.read(end, 100) == b"firstsecond"
    finally:
        os.close(end)
    assert stat.S_ISFIFO(fifo.stat().st_mode) and os.listdir(tmp_path) == ["fifo"]


def test_a_device_is_written_into(tmp_path):
    # A link, so that a mistake in the code cannot replace the device.
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    write_twice(link)
    assert link.is_symlink() and os.listdir(tmp_path) == ["null"]
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_standard_output_is_written_into(tmp_path):
    """It is a pipe or a terminal more often than a file."""
    code = (
        "import pathlib, sys\nfrom mmgc_jax.runtime import files\n"
        "files.write_atomically(pathlib.Path(sys.argv[1]), lambda stream: stream.write(b'x'))\n"
    )
    (tmp_path / "link").symlink_to("/dev/stdout")
    command = [sys.executable, "-c", code, str(tmp_path / "link")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert ran.stdout == b"x" and (tmp_path / "link").is_symlink()


# Mounts a disk that only this process sees.
MOUNT = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")
FILL = """
import os, pathlib, sys
import numpy as np
import orbax.checkpoint as ocp
from array_record.python.array_record_module import ArrayRecordWriter
from mmgc_jax.runtime import files

disk = pathlib.Path(sys.argv[1])

def save():
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        tree = np.random.default_rng(0).standard_normal(2_000_000)
        checkpointer.save(disk / "checkpoints" / "1", args=ocp.args.StandardSave({"w": tree}))

def record():
    writer = ArrayRecordWriter(str(disk / "shard"), "group_size:1")
    for _ in range(100):
        writer.write(os.urandom(100_000))
    writer.close()

def write():
    files.write_atomically(disk / "file", lambda stream: stream.write(bytes(10_000_000)))

for fill in (save, record, write):
    try:
        fill()
    except Exception as error:
        print(fill.__name__, type(error).__name__, files.disk_error(error), flush=True)
    for file in disk.glob("*[!s]"):
        file.unlink()
"""


@pytest.mark.parametrize(("options", "reason"), [("size=4m", FULL), ("size=4m,ro", READ_ONLY)])
def test_errors_of_libraries_on_a_full_or_read_only_disk(tmp_path, options, reason):
    mount = f"mount -t tmpfs -o {options} tmpfs {tmp_path}; "
    can_mount = subprocess.run((*MOUNT, mount), capture_output=True)
    if can_mount.returncode:
        pytest.skip(f"no disk can be mounted here: {can_mount.stderr.decode()}")
    command = shlex.join([sys.executable, "-c", FILL, str(tmp_path)])
    ran = subprocess.run((*MOUNT, mount + command), cwd=ROOT, capture_output=True, text=True)
    found = [line.split(" ", 2) for line in ran.stdout.splitlines()]
    assert [line[0] for line in found] == ["save", "record", "write"], ran.stderr
    assert {line[2] for line in found} == {reason}, ran.stdout


@pytest.mark.parametrize("name", ["Film [2024]", "a[b", "a]b", "a\\b", "a?b", "a*b"])
def test_folders_that_libraries_would_misinterpret_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"^--workdir: .* has .* in its path.* none of \[ \] "):
        files.check_workdir(tmp_path / name / "run")
    with pytest.raises(InputError, match=r"^config\.data\.directory: "):
        files.check_workdir(tmp_path / name, "config.data.directory")


@pytest.mark.parametrize(
    "name", ["plain", "a b", "a%b", "a%20b", "a#b", "é漢", "a:b", "{a}", "~a", "a'b", "a@2", "a$b"]
)
def test_checkpoints_can_be_written_to_other_folders(tmp_path, name):
    files.check_workdir(tmp_path / name)
    tree = {"w": np.arange(3.0), "step": np.zeros((), np.int32)}
    checkpoints.save(tmp_path / name / "checkpoints", 1, tree)
    restored = checkpoints.restore(tmp_path / name / "checkpoints")
    np.testing.assert_array_equal(restored["w"], tree["w"])
    assert [file.name for file in tmp_path.iterdir()] == [name]
