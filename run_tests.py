"""Runs the tests in the project's own environment, which it makes in `.venv/` first.

    python3 run_tests.py                # all of them, two files at a time
    python3 run_tests.py -k logs -x     # arguments are pytest's
    python3 run_tests.py -n 0 --pdb     # in this process, for a debugger
"""

import os
import sys

from utils import environment

# Two processes on two cores; the tests of one file share what its fixtures have computed.
PARALLEL = ["-n", "2", "--dist", "loadfile"]

if __name__ == "__main__":
    environment.reexec(*environment.FOR_TESTS)
    os.chdir(environment.ROOT)
    # Threads that wait for work leave the core to the other process.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *PARALLEL, *sys.argv[1:]])
