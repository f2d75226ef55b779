"""SkyReconNet's inference by size of the sky: seconds and memory a pixel must not grow."""

import subprocess
import sys

NSIDES = (32, 64, 128, 256)
RUN = """
import sys, time
import torch
from medseg.models.skyreconnet import SkyReconNet
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))
torch.manual_seed(0)
network = SkyReconNet(2).eval()
def run(nside):
    sky = torch.randn(1, 2, 12 * nside**2)
    sky[:, 1] = (sky[:, 1] > -0.3).float()
    begun = time.perf_counter()
    with torch.no_grad():
        network.both(sky)
    return time.perf_counter() - begun
run(16)
nside = int(sys.argv[1])
before = status("VmRSS")
first = run(nside)
again = min(run(nside) for _ in range(2))
print(again, status("VmHWM") - before, first)
"""


def bench():
    """A row for time and one for memory, each nside in a process of its own."""
    found = {nside: measured(nside) for nside in NSIDES}
    seconds = {nside: one[0] for nside, one in found.items()}
    memory = {nside: one[1] / 1024 for nside, one in found.items()}
    told = ", ".join(f"{nside}: {s:.2f} s" for nside, s in seconds.items())
    sizes = ", ".join(f"{nside}: {m:.0f} MiB" for nside, m in memory.items())
    return [
        {
            "subject": "SkyReconNet, mean and deviation: seconds a pixel, nside 128 for 64",
            "ours_s": seconds[128],
            "peer": "linear in pixels",
            "ratio": 4 * seconds[64] / seconds[128],
            "bound": 0.6,
            "equal": True,
            "note": f"nside {told}; the first map of an nside also makes its tables "
            f"(128: {found[128][2]:.1f} s)",
        },
        {
            "subject": "SkyReconNet: memory a pixel, nside 256 for 128",
            "peer": "linear in pixels",
            "ratio": 4 * memory[128] / memory[256],
            "bound": 0.8,
            "equal": True,
            "note": f"one map: nside {sizes}",
        },
    ]


def measured(nside):
    """Seconds, KiB that the process grows by, and the seconds of the first map."""
    command = [sys.executable, "-c", RUN, str(nside)]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    return float(said[0]), int(said[1]), float(said[2])
