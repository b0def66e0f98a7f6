"""Tests dry runs of all launch scripts, and a real run of the local one."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import pytest
import yaml

from tests import tiny

LAUNCH = tiny.ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
# Values that a shell would split without quotes.
ARGUMENTS = ["--config=configs/talk.py", "--workdir=/share/runs/a b", "--config.encoders=('plot',)"]


def start(script: str, *arguments, **environment) -> subprocess.Popen:
    """Starts a launch script."""
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [LAUNCH / script, *map(str, arguments)],
        env=os.environ | {"PATH": path, "JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(script: str, *arguments, **environment) -> str:
    """Runs a launch script; returns its output."""
    process = start(script, *arguments, **environment)
    printed, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return printed


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shell_scripts_pass_shellcheck(script):
    checker = pathlib.Path(sys.executable).with_name("shellcheck")
    subprocess.run(["bash", "-n", script], check=True)
    checked = subprocess.run([checker, script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert os.access(script, os.X_OK)


def test_local_starts_numbered_processes_with_the_same_command():
    lines = launch("local.sh", "--dry-run", "-n", "3", *ARGUMENTS).splitlines()
    for number, line in enumerate(lines):
        words = shlex.split(line)
        assert f"JAX_PROCESS_ID={number}" in words and "JAX_NUM_PROCESSES=3" in words
        assert words[-6:] == ["python", "-m", "mmgc_jax.main", "--distributed", *ARGUMENTS][-6:]
    assert len(lines) == 3 and len(set(re.findall("localhost:[0-9]+", str(lines)))) == 1


def test_slurm_submits_itself():
    first, *options = launch("slurm.sh", "--dry-run", *ARGUMENTS).splitlines()
    assert shlex.split(first, comments=True) == ["sbatch", "launch/slurm.sh", *ARGUMENTS]
    assert {"#SBATCH --requeue", "#SBATCH --signal=TERM@180"} <= set(options)


def test_a_slurm_job_runs_the_same_command_and_is_requeued_when_stopped(tmp_path):
    """Fakes of SLURM's commands and of Python record how they are called."""
    for name, code in {"python3": 0, "srun": 75, "scontrol": 0, "pip": 0}.items():
        stand_in = tmp_path / name
        stand_in.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >> {tmp_path}/calls\nexit {code}'
        )
        stand_in.chmod(0o755)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(tmp_path)
    stopped = subprocess.run(
        [LAUNCH / "slurm.sh", *ARGUMENTS],
        env={
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_SUBMIT_DIR": str(tmp_path),
        },
        check=False,
    )
    assert stopped.returncode == 75
    assert (tmp_path / "calls").read_text().splitlines() == [
        "python3 -m venv .venv",
        "pip install --quiet --editable .[cuda12]",
        "srun --kill-on-bad-exit=0 .venv/bin/python -m mmgc_jax.main --distributed "
        + " ".join(ARGUMENTS),
        "scontrol requeue 7",
    ]


@pytest.mark.parametrize("share", ["", "10.0.0.2:/share"])
def test_tpu_vm_copies_the_source_to_every_host_and_runs_it(share):
    where = {"TPU": "mine", "ZONE": "somewhere", "SHARE": share}
    pack, copy, run = launch("tpu_vm.sh", "--dry-run", *ARGUMENTS, **where).splitlines()
    assert pack.startswith("git archive") and copy.startswith("gcloud compute tpus tpu-vm scp ")
    # Bash has kinds of quotes that shlex does not understand.
    unquoted = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {run}"], capture_output=True, text=True, check=True
    ).stdout
    assert "--worker=all" in unquoted
    assert (f"mount -t nfs {share} /mnt/share" in unquoted) == bool(share)
    *_, install, command = unquoted.strip().splitlines()
    assert "'.[tpu,gcs]'" in install
    assert shlex.split(command)[1:] == ["-m", "mmgc_jax.main", "--distributed", *ARGUMENTS]


def test_gke_creates_a_config_map_of_the_source_and_a_job_set():
    printed = launch("gke.sh", "--dry-run", *ARGUMENTS, HOSTS="8")
    source, jobs = yaml.safe_load_all(printed)
    assert source["kind"] == "ConfigMap" and len(json.dumps(source)) < 1_000_000
    assert (jobs["apiVersion"], jobs["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert {"name", "action", "onJobFailureReasons"} == set(
        jobs["spec"]["failurePolicy"]["rules"][0]
    )
    [hosts] = jobs["spec"]["replicatedJobs"]
    job = hosts["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 8 and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"] == ARGUMENTS
    subprocess.run(["bash", "-n", "-c", container["command"][2]], check=True)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_skypilot_passes_arguments_unchanged():
    printed = launch("skypilot.sh", "--dry-run", *ARGUMENTS)
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert yaml.safe_load(printed.split("\n", 1)[1]) == task
    assert task["resources"]["use_spot"] and task["workdir"] == "."
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    submit = shlex.split(printed.splitlines()[0])
    assert submit[:3] == ["sky", "jobs", "launch"] and submit[-1] == "launch/skypilot.yaml"
    environment = {
        "ARGUMENTS": submit[-2].removeprefix("ARGUMENTS="),
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
    }
    shown = task["run"].replace(
        "exec .venv/bin/python", "printf '%s\\\\n' \"$JAX_COORDINATOR_ADDRESS\""
    )
    found = subprocess.run(
        ["bash", "-c", shown],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert found == ["10.0.0.1:1234", "-m", "mmgc_jax.main", "--distributed", *ARGUMENTS]


@pytest.mark.slow
def test_local_runs_an_experiment_in_two_processes_which_stop_together(inputs, tmp_path):
    workdir, (data, weights) = tmp_path / "run", inputs
    arguments = [
        "--config=tests/tiny_everything.py", f"--workdir={workdir}", f"--config.data.path={data}",
        f"--config.poster.weights={weights}", "--config.poster.finetune_from=head",
        "--config.encoders=('plot_bag_of_words','poster')", "--config.split_parameters",
        "--config.fusion.encoders=('plot_bag_of_words','poster')",
        "--config.fusion.training.epochs=2", "--config.fusion.compare=()",
    ]  # fmt: skip
    process = start("local.sh", "-n", "2", *arguments)
    while "poster: starting" not in log_of(workdir):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.terminate()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 75, errors
    assert errors.count("To continue, run the same again") == 2
    assert not (workdir / "results.json").exists()

    printed = launch("local.sh", "-n", "2", *arguments)
    heading = (workdir / "results.txt").read_text().splitlines()[0]
    assert heading.startswith("validation") and printed.count("To predict") == 1
    assert printed.count("Report: ") == 1 and (workdir / "report.html").is_file()
    assert sum(line.startswith("validation") for line in printed.splitlines()) == 1
    # A single process has nothing left to do and reports the same.
    before = (workdir / "results.json").read_text()
    alone = launch("local.sh", "-n", "1", *arguments)
    assert alone.count("To predict") == 1
    assert {line for line in alone.splitlines() if line.startswith("  ")} <= set(
        printed.splitlines()
    )
    assert (workdir / "results.json").read_text() == before


def log_of(workdir) -> str:
    log = workdir / "run.log"
    return log.read_text() if log.exists() else ""
