"""`python -m utils.runtime`: the self-check of `alignment.selfcheck`."""

from alignment.selfcheck import main
from utils.cli import run

run(main)
