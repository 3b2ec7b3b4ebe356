"""Runs the tests in the project's own environment, which it makes in `.venv/` first.

    python3 run_tests.py                # all of them
    python3 run_tests.py -k logs -x     # arguments are pytest's
"""

import os
import sys

from utils import environment

if __name__ == "__main__":
    environment.reexec()
    os.chdir(environment.ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]])
