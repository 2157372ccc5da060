"""The most memory that a command holds."""

import subprocess
import sys
from collections.abc import Sequence

# What Linux gives as the most of a process includes what the one that started it held at that time. The tests' process
# may hold gigabytes; this program holds little.
STARTER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_of(command: Sequence[str]) -> float:
    """The most that a command held, in GiB; CalledProcessError if it fails."""
    starter = [sys.executable, "-c", STARTER, *command]
    printed = subprocess.run(starter, check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(printed.split()[-1]) / 2**20  # KiB on Linux
