"""Describes the processor and GPU of this machine."""

import os
import pathlib
import platform
import shutil
import subprocess

# Peak of dense bfloat16 matmuls on tensor cores, TFLOP/s, from NVIDIA's data sheets.
_PEAKS = {"H200": 989, "H100 80GB HBM3": 989, "H100 PCIe": 756, "A100": 312, "A10": 125, "L4": 121}


def describe() -> str:
    """Returns the processor's name (its architecture if not on Linux) and number of cores."""
    name = platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def gpu() -> str | None:
    """Returns the name of the first NVIDIA GPU, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return listed.stdout.splitlines()[0].strip() if listed.returncode == 0 else None


def peak(gpu: str) -> float | None:
    """Returns the bfloat16 peak of a GPU in TFLOP/s, or None if it is unknown."""
    return next((peak for name, peak in _PEAKS.items() if name in gpu), None)
