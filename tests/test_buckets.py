"""Data and working directories in buckets.

Google Cloud Storage is emulated in memory, for gcsfs and TensorStore. Other file systems are
represented by fsspec's memory.
"""

import io
import os
import signal
import socket
import socketserver
import subprocess
import sys
import time

import fsspec
import jax
import numpy as np
import pytest
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

from mmgc_jax import experiment
from mmgc_jax.runtime import files
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import as_path
from mmgc_jax.runtime.remote import copy_here
from mmgc_jax.training import checkpoints
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def bucket():
    """`gs://bucket`, for this process and those that it starts."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    server = create_server("localhost", port, in_memory=True, default_bucket="bucket")
    url = f"http://localhost:{port}"
    download = objects.download

    def download_with_generation(request, response, storage, *args, **kwargs):
        """As Google does and the emulator does not; TensorStore asks for it."""
        download(request, response, storage, *args, **kwargs)
        if response.status < 300:
            name = request.params["bucket_name"], request.params["object_id"]
            response["X-Goog-Generation"] = storage.get_file_obj(*name)["generation"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "download", download_with_generation)
        # With the default of 5, parallel requests are refused, and gcsfs retries for minutes.
        patch.setattr(socketserver.TCPServer, "request_queue_size", 128)
        server.start()
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks another server of Google
        yield as_path("gs://bucket")
        server.stop()


def files_below(folder) -> dict[str, bytes]:
    """Reads all files below a folder: path -> content."""
    found = {}
    for place in folder.iterdir():
        if place.is_dir():
            found |= {
                f"{place.name}/{name}": content for name, content in files_below(place).items()
            }
        else:
            found[place.name] = place.read_bytes()
    return found


def upload(folder, bucket) -> None:
    for name, content in files_below(folder).items():
        (bucket / name).write_bytes(content)


def kill_after(pattern, arguments):
    """Starts a command, and sends it SIGKILL shortly after a log message."""
    process = subprocess.Popen(
        arguments, cwd=tiny.ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    seen = []
    for line in process.stderr:
        seen.append(line)
        if pattern in line:
            time.sleep(np.random.default_rng(len(seen)).uniform(0, 0.3))
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    assert pattern in seen[-1], f"{pattern!r} never came:\n{''.join(seen)}"


@pytest.mark.slow
def test_an_experiment_in_a_bucket_is_the_same_as_on_a_disk(
    finished, inputs, bucket, tmp_path, monkeypatch
):
    upload(inputs[0], bucket / "talk")
    (bucket / "weights.npz").write_bytes(inputs[1].read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = tiny.command("gs://bucket/run", "gs://bucket/talk", "gs://bucket/weights.npz")
    before = set(tiny.ROOT.iterdir())
    kill_after("fusion/fold_0: epoch 5", command)
    run = subprocess.run(command, cwd=tiny.ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "poster: already finished" in run.stderr and "continues after step" in run.stderr
    assert "which was killed or is still running" in run.stderr
    paths = str(finished.workdir), os.path.relpath(finished.workdir, tiny.ROOT)
    expected = finished.run.stdout
    for path in paths:
        expected = expected.replace(path, "gs://bucket/run")
    assert run.stdout == expected

    remote, local = files_below(bucket / "run"), files_below(finished.workdir)
    same = (
        "results.json", "results.txt", "genre_frequencies.json", "calibration.json",
        "encoders/plot/vocabulary.json", "encoders/plot/word_vectors.npy",
    )  # fmt: skip
    assert {name: remote[name] for name in same} == {name: local[name] for name in same}
    for stage in ("plot", "poster", "poster_grey", "fusion"):
        one, other = (
            dict(np.load(io.BytesIO(found[f"predictions/{stage}.npz"])))
            for found in (remote, local)
        )
        jax.tree.map(np.testing.assert_array_equal, one, other)
    of_orbax = ("checkpoints/", "data/")
    names = [
        {name for name in found if not name.startswith(of_orbax) and "lock" not in name}
        for found in (remote, local)
    ]
    assert names[0] == names[1]
    assert not any(name.startswith(("data/", "lock", "new-")) for name in remote)
    assert len(remote["metrics.jsonl"].splitlines()) >= len(local["metrics.jsonl"].splitlines())
    assert b"plot: starting" in remote["run.log"] and b"poster: starting" in remote["run.log"]
    # All that is on this machine is in the cache: nothing has taken the address for a path.
    assert set(tiny.ROOT.iterdir()) == before
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]

    movies = ("--movies=gs://bucket/talk/movies.csv", "--posters=gs://bucket/talk/posters")
    tables = "gs://bucket/probs.csv", tmp_path / "probs.csv"
    for workdir, output in zip(("gs://bucket/run", finished.workdir), tables):
        subprocess.run(
            [sys.executable, "-m", "mmgc_jax.predict", f"--workdir={workdir}", *movies,
             f"--output={output}"],
            cwd=tiny.ROOT, check=True,
        )  # fmt: skip
    assert as_path(tables[0]).read_bytes() == tables[1].read_bytes()


def test_lines_and_whole_files_in_a_bucket(bucket):
    file = bucket / "some" / "lines.txt"
    for line in ("one", "zwei é"):
        files.append_line(file, line)
    assert not file.exists()
    files.flush_lines()
    assert file.read_text() == "one\nzwei é\n"
    files.flush_lines()
    files.append_line(file, "three")
    files.flush_lines()
    assert file.read_text() == "one\nzwei é\nthree\n"
    files.write_text(file, "anew")
    assert file.read_text() == "anew"
    assert [place.name for place in file.parent.iterdir()] == ["lines.txt"]


def test_lines_are_uploaded_one_time_each(bucket, monkeypatch):
    file, uploaded = bucket / "lines.txt", []
    write_bytes = type(file).write_bytes

    def count(place, content):
        uploaded.append(len(content))
        return write_bytes(place, content)

    monkeypatch.setattr(type(file), "write_bytes", count)
    lines = [f"line {number}" for number in range(40)]
    for number, line in enumerate(lines, start=1):
        files.append_line(file, line)
        if number % 10 == 0:
            files.flush_lines()
    assert file.read_text().splitlines() == lines
    assert len(uploaded) == 4 and sum(uploaded) == len(file.read_bytes())


def test_without_a_flush_lines_are_uploaded_after_a_while(bucket, monkeypatch):
    file = bucket / "slow.txt"
    monkeypatch.setattr(files, "_SECONDS_BETWEEN_FLUSHES", -1)
    files.append_line(file, "soon")
    assert file.read_text() == "soon\n"


def test_only_files_that_changed_are_copied_again(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in ("movies.csv", "posters/1.jpg", "posters/2.jpg"):
        memory.pipe_file(f"/talk/{name}", name.encode())
    copy = copy_here("memory://talk", tmp_path)
    assert files_below(as_path(copy)) == {
        name: name.encode() for name in ("movies.csv", "posters/1.jpg", "posters/2.jpg")
    }
    memory.pipe_file("/talk/posters/1.jpg", b"changed")
    memory.rm_file("/talk/posters/2.jpg")
    (as_path(copy) / "movies.csv").write_bytes(b"touched, to see that it is not copied again")
    assert copy_here("memory://talk", tmp_path) == copy
    assert files_below(as_path(copy)) == {
        "movies.csv": b"touched, to see that it is not copied again",
        "posters/1.jpg": b"changed",
    }
    assert copy_here("memory://talk/movies.csv", tmp_path).endswith("/movies.csv")
    assert copy_here(str(tmp_path), tmp_path) == str(tmp_path)


@pytest.mark.parametrize("address", ["memory://nothing", "nosuch://bucket/file"])
def test_an_address_that_cannot_be_read_is_one_error(tmp_path, address):
    with pytest.raises(InputError, match=address):
        copy_here(address, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_addresses_that_cannot_be_working_or_data_directories(tmp_path):
    config = tiny.get_config()
    with pytest.raises(InputError, match="it must be a local folder or gs://bucket/folder"):
        experiment.run(config, "s3://bucket/run")
    config.data.directory = "gs://bucket/data"
    with pytest.raises(InputError, match=r"config\.data\.directory.* folder of this machine"):
        experiment.run(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_in_a_bucket_are_rotated(bucket):
    directory = bucket / "rotated"
    for step in (10, 20, 30):
        checkpoints.save(directory, step, {"x": np.array([step])}, keep=2)
    for step in (25, 30):  # as interrupted writes leave them
        (directory / str(step) / "commit_success.txt").unlink(missing_ok=True)
        (directory / str(step) / "part").write_text("")
    assert checkpoints.restore(directory)["x"].item() == 20
    checkpoints.save(directory, 30, {"x": np.array([31])}, keep=2)
    assert checkpoints.restore(directory)["x"].item() == 31
    assert sorted(folder.name for folder in directory.iterdir()) == ["20", "30"]
