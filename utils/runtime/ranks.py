"""Several processes that train or predict together: `mpirun -np 4 python train_device0.py ...`.

Each process is a *rank*. Ranks exchange sums and values by Jittor's MPI (OpenMPI; NCCL between
GPUs). In a process that runs alone, nothing here loads, starts or exchanges anything.

An exchange is a call that all ranks make, in the same order: the others wait for ever for a rank
that leaves a call out. So nothing that computes may depend on `is_main()`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import accumulate, chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.files import write_text
from utils.runtime.commands import rewritten

if TYPE_CHECKING:
    import jittor as jt

_LAUNCHERS = ("mpirun", "mpiexec", "orterun", "orted", "prterun", "prted")


def size() -> int:
    """The number of ranks; 1 without mpirun."""
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))


def rank() -> int:
    """The number of this rank, counted from 0."""
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", 0)) if size() > 1 else 0


def is_main() -> bool:
    """True for the rank that writes and prints."""
    return rank() == 0


def subset() -> slice:
    """This rank's part of a list that all ranks share."""
    return slice(rank(), None, size())


# ---------------------------------------------------------------------------- parts of a batch


def part(images: int) -> slice:
    """The images of a batch that this rank computes: its own, or the first image if it has none."""
    start, stop = bounds(images)
    return slice(start, stop) if stop > start else slice(0, 1)


def bounds(images: int) -> tuple[int, int]:
    """Start and stop of this rank's own images in a batch; equal if it has none."""
    return rank() * images // size(), (rank() + 1) * images // size()


# ---------------------------------------------------------------------------- exchanges


def all_sum(x: jt.Var, after: jt.Var | None = None) -> jt.Var:
    """Σ of x over all ranks, float32, float64 or int32; without gradient.

    Args:
        after: a variable that is computed first, to keep the order of the exchanges.
    """
    y = x.mpi_all_reduce()
    return y if after is None else y._add_dependency([after])


def all_sums(arrays: Sequence[jt.Var]) -> list[jt.Var]:
    """Σ of each array over all ranks, in one message; all arrays have one type."""
    flat = all_sum(_jittor().concat([x.reshape(-1) for x in arrays]))
    ends = accumulate(x.numel() for x in arrays)
    return [flat[end - x.numel() : end].reshape(x.shape) for x, end in zip(arrays, ends)]


def gather(value: Any) -> list[Any]:
    """The values of all ranks, in the order of the ranks; anything that can be pickled."""
    if size() == 1:
        return [value]
    _jittor().sync_all(True)  # Jittor's own pending exchanges come first
    return [pickle.loads(_broadcast(pickle.dumps(value), root)) for root in range(size())]


def interleave(parts: Sequence[Sequence]) -> list:
    """Merges the results of all ranks in the order of the full list.

    Args:
        parts: this rank's results: one sequence per item of its `subset`.
    """
    rounds = zip_longest(*gather(parts), fillvalue=())
    return list(chain.from_iterable(chain.from_iterable(rounds)))


def check_same(value: Any, what: str) -> None:
    """Raises a UserError on all ranks if their values differ; `what` names the value, a plural."""
    values = gather(value)
    for other, theirs in enumerate(values):
        if theirs != values[0]:
            raise UserError(f"rank {other}: its {what} differ from rank 0's; give all hosts the "
                            "same files and processors of one kind")


def _broadcast(content, root):
    import numpy as np  # here: without the packages `python -m utils.runtime` says what is missing

    mpi = _jittor().mpi
    length = np.array([len(content)])
    mpi.broadcast(length, root)
    own = rank() == root
    buffer = np.frombuffer(bytearray(content) if own else bytearray(length[0]), np.uint8)
    mpi.broadcast(buffer, root)
    return buffer.tobytes()


def _jittor():
    return sys.modules["jittor"]


# ---------------------------------------------------------------------------- starting


def prepare(nccl: tuple[Path, Path] | None) -> None:
    """Prepares Jittor's MPI, and this rank's number of threads, before Jittor is imported.

    Args:
        nccl: folders of NCCL's headers and library, if the ranks compute on GPUs.

    Raises:
        UserError: Jittor could not compile its MPI.
    """
    if size() == 1:
        os.environ.pop("OMPI_COMM_WORLD_SIZE", None)  # of `mpirun -np 1`: Jittor would look for MPI
        return
    _check_mpicc()
    os.environ["use_mpi"] = "1"
    if nccl:
        os.environ["use_nccl"] = "1"
        os.environ["nccl_include_path"], os.environ["nccl_lib_path"] = map(str, nccl)
    if "OMPI_MCA_hwloc_base_binding_policy" not in os.environ:
        # mpirun ties each of two ranks to one core, even if it may use more cores itself.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, os.sched_getaffinity(_launcher()))
    cores = len(os.sched_getaffinity(0))
    on_this_host = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // on_this_host)))


def _check_mpicc() -> None:
    cure = "apt-get install libopenmpi-dev, or module load what mpirun comes from"
    mpicc = shutil.which(os.environ.get("mpicc_path", "mpicc"))
    if not mpicc:
        raise UserError("mpicc: not found, but Jittor compiles its MPI with it; " + cure)
    for question in ("--showme:compile", "--version"):  # the second asks OpenMPI's compiler
        done = subprocess.run([mpicc, question], capture_output=True, text=True, errors="replace")
        if done.returncode:  # conda's without a compiler, or MPICH's
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise UserError(f"{mpicc}: this mpicc cannot compile Jittor's MPI ({reason[:200]}); "
                            f"{cure}, and export mpicc_path=/usr/bin/mpicc")


def _launcher() -> int:
    """The process id of the mpirun, or its daemon on this host, that started us; else 0."""
    process = os.getpid()
    while process > 1:
        name, _, rest = Path(f"/proc/{process}/stat").read_text().partition("(")[2].rpartition(")")
        if name in _LAUNCHERS:
            return process
        process = int(rest.split()[1])
    return 0


def mended_mpi() -> contextlib.AbstractContextManager[None]:
    """Corrects Jittor's mpi_wrapper.cc, which writes past an array's end, while it is imported."""
    if size() == 1:
        return contextlib.nullcontext()

    def mend(commands: list[str], cache_path: str) -> list[str]:
        def copy(found: re.Match) -> str:
            """A copy of the source whose array of host names has one entry per rank."""
            text = Path(found[1]).read_text("utf-8")
            path = Path(cache_path, "mended", "mpi_wrapper.cc")
            write_text(path, text.replace("uint64_t hostHashs[mpi_world_rank]",
                                          "uint64_t hostHashs[mpi_world_size]"))
            return f'"{path}"'

        return [re.sub(r'"([^"]+/mpi/src/mpi_wrapper\.cc)"', copy, command)
                for command in commands]

    return rewritten(mend)
