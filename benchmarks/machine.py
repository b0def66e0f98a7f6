"""Where something was measured."""

import os
import pathlib
import platform
import shutil
import subprocess

# Dense bfloat16 products on tensor cores, TFLOP/s, as NVIDIA's data sheets have them.
_PEAKS = {"H200": 989, "H100 80GB HBM3": 989, "H100 PCIe": 756, "A100": 312, "A10": 125, "L4": 121}


def describe() -> str:
    """The processor's name, where Linux tells it, and the number of cores."""
    name = platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def gpu() -> str | None:
    """The name of the first NVIDIA GPU; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return listed.stdout.splitlines()[0].strip() if listed.returncode == 0 else None


def peak(gpu: str) -> float | None:
    """What a GPU can reach in bfloat16, TFLOP/s; None where that is not known here."""
    return next((peak for name, peak in _PEAKS.items() if name in gpu), None)
