"""Finding CUDA, on toolkits made of empty files: no compiler, library or GPU takes part."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.runtime import cuda

H200 = cuda.Gpu("Some GPU", 90, (13, 0))
HEADERS = ("cuda_runtime", "cublas", "curand", "cufft", "cusparse")


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch):
    """This machine has no CUDA but what a test makes."""
    monkeypatch.delenv("nvcc_path", raising=False)
    monkeypatch.setattr(cuda, "_sites", lambda: [])
    monkeypatch.setattr(cuda, "_system_folders", lambda: [])


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"// {path.name}\n")


def make_nvcc(folder, release):
    """A compiler that tells its version and otherwise prints its arguments."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"""#!/bin/sh
case "$1" in
--version) echo 'Cuda compilation tools, release {release}, V{release}.1' ;;
--dryrun) echo '#$ TOP={folder}/bin/..' >&2 ;;
*) for argument do echo "$argument"; done ;;
esac
""")
    nvcc.chmod(0o755)
    return nvcc


def make_toolkit(folder, release, *libraries):
    """An installed toolkit, complete but for cuDNN."""
    major = release.split(".")[0]
    touch(*(folder / "include" / f"{name}.h" for name in HEADERS),
          folder / "include" / "cccl" / "cub" / "cub.cuh")
    for name in ("cudart", "cublas", "cublasLt", "curand", "cufft", "cusparse"):
        touch(folder / "lib64" / f"lib{name}.so.{major}")
        (folder / "lib64" / f"lib{name}.so").symlink_to(f"lib{name}.so.{major}")
    touch(*(folder / "lib64" / name for name in libraries))
    return make_nvcc(folder, release)


def make_cudnn(include, lib):
    touch(include / "cudnn.h", *(lib / f"libcudnn{part}.so.9" for part in ("", "_ops", "_cnn")))
    (include / "cudnn_version.h").write_text(
        "#define CUDNN_MAJOR 9\n#define CUDNN_MINOR 24\n#define CUDNN_PATCHLEVEL 1\n")


def make_wheels(site, major, compiler=False, libraries=True):
    """NVIDIA's wheels, each major version in its own layout, without the links named *.so."""
    if libraries:
        for name, header in zip(("cuda_runtime", *HEADERS[1:]), HEADERS):
            folder = site / "nvidia" / ("cu13" if major == 13 else name)
            library = "cudart" if name == "cuda_runtime" else name
            touch(folder / "include" / f"{header}.h", folder / "lib" / f"lib{library}.so.{major}")
        touch(folder.parent / ("cu13" if major == 13 else "cuda_cccl") / "include/cccl/cub/cub.cuh")
        (site / f"nvidia_cuda_runtime_cu{major}-{major}.0.dist-info").mkdir()
    make_cudnn(site / "nvidia/cudnn/include", site / "nvidia/cudnn/lib")
    (site / f"nvidia_cudnn_cu{major}-9.24.1.dist-info").mkdir()
    return make_nvcc(site / "nvidia/cu13", "13.0") if compiler else None


@pytest.fixture
def find(tmp_path, monkeypatch):
    """Finds a toolkit, where only these exist: find(nvcc=None, site=None, gpu=H200)."""
    def find(nvcc=None, site=None, gpu=H200):
        if site:
            monkeypatch.setattr(cuda, "_sites", lambda: [site])
        monkeypatch.setattr(cuda, "_compilers", lambda _: [str(nvcc)] if nvcc else [])
        return cuda.find_toolkit(tmp_path / "cache", gpu)

    return find


def view_of(toolkit):
    return Path(toolkit.nvcc).parent.parent


def shims(view):
    return {str(path.relative_to(view / "include")) for path in (view / "include").rglob("*")
            if path.is_file() and not path.is_symlink()}


@pytest.mark.parametrize(("release", "cudnn"), [
    ("12.4", "libcudnn_ops_infer.so"), ("11.8", "libcudnn_ops_infer.so.8")])
def test_toolkit_that_jittor_knows_is_used_as_it_is(tmp_path, find, release, cudnn):
    nvcc = make_toolkit(tmp_path / "cuda", release, cudnn)
    toolkit = find(nvcc)
    assert (toolkit.nvcc, toolkit.cuda, toolkit.cudnn) == (str(nvcc), release, "8")
    assert not (tmp_path / "cache").exists()
    wrapper = tmp_path / "elsewhere/bin/nvcc"  # leads to its toolkit
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    wrapper.chmod(0o755)
    assert find(wrapper).nvcc == str(nvcc)


def test_view_of_cuda_13_with_cudnn_9_of_the_wheels(tmp_path, find):
    nvcc = make_toolkit(tmp_path / "cu da", "13.0")
    make_wheels(tmp_path / "site", 13, libraries=False)
    toolkit = find(nvcc, tmp_path / "site")
    view = view_of(toolkit)
    assert (toolkit.cuda, toolkit.cudnn) == ("13.0", "9.24.1")
    assert view.parent == tmp_path / "cache/l2sknet-cuda"
    assert shims(view) == {"cuda_runtime.h", "cudnn.h", "npp.h", "cub/cub.cuh"}
    for name in ("cuda_runtime.h", "cudnn.h"):  # the shim includes the real one
        assert f"// {name}" in (view / "include/real" / name).read_text()
        assert f'#include "real/{name}"' in (view / "include" / name).read_text()
    cudnn = tmp_path / "site/nvidia/cudnn/lib/libcudnn_cnn.so.9"
    for name in ("cnn_infer.so", "cnn_train.so", "cnn.so", "cnn.so.9"):
        assert os.path.realpath(view / "lib64" / f"libcudnn_{name}") == str(cudnn)
    assert [path.name for path in toolkit.preload][-1] == "libcudnn.so"
    assert all(path.is_file() for path in toolkit.preload)
    assert not any(path.is_symlink() for path in (view / "bin").iterdir())  # Jittor resolves links
    # The wrapper asks for C++17 in place of C++14, and changes nothing else.
    given = ["-O2", "-std=c++14", "-Xcompiler", "-std:c++14", "-DX=a b", "", "x-std=c++14", "*"]
    run = subprocess.run([toolkit.nvcc, *given], capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout.split("\n")[:-1] == ["-O2", "-std=c++17", *given[2:]]


def test_view_of_cuda_12_with_cudnn_9_has_fewer_shims_and_own_parts_first(tmp_path, find):
    nvcc = make_toolkit(tmp_path / "cuda", "12.8")
    touch(tmp_path / "cuda/include/npp.h")
    for name in ("libcurand.so.12", "libcurand.so"):
        (tmp_path / "cuda/lib64" / name).unlink()
    make_wheels(tmp_path / "site", 12)
    view = view_of(find(nvcc, tmp_path / "site", cuda.Gpu("Some GPU", 61, (12, 8))))
    assert shims(view) == {"cudnn.h"}
    run = subprocess.run([view / "bin/nvcc", "-std=c++14"], capture_output=True, text=True)
    assert run.stdout == "-std=c++14\n"
    assert tmp_path / "cuda" in (view / "lib64/libcublas.so").resolve().parents
    assert tmp_path / "site" in (view / "lib64/libcurand.so").resolve().parents


def test_wheels_alone_are_enough(tmp_path, find):
    nvcc = make_wheels(tmp_path / "site", 13, compiler=True)
    view = view_of(find(nvcc, tmp_path / "site"))
    assert (view / "lib64/libcublas.so").is_file() and (view / "include/cublas.h").is_file()
    other = make_toolkit(tmp_path / "cuda", "12.8")
    with pytest.raises(UserError, match="lacks cuDNN"):  # those of another CUDA are left alone
        find(other, tmp_path / "site")


def test_view_is_made_once_and_anew_when_its_parts_change(tmp_path, find, monkeypatch):
    copy = tmp_path / "shims"
    shutil.copytree(cuda.SHIMS, copy)
    monkeypatch.setattr(cuda, "SHIMS", copy)
    nvcc = make_toolkit(tmp_path / "cuda", "13.0")
    make_wheels(tmp_path / "site", 13, libraries=False)

    def view():
        return view_of(find(nvcc, tmp_path / "site"))

    first = view()
    made = first.stat().st_ctime_ns
    assert view() == first and first.stat().st_ctime_ns == made

    (copy / "npp.h").write_text("// another\n")
    second = view()
    assert second != first and (second / "include/npp.h").read_text() == "// another\n"

    (tmp_path / "site/nvidia/cudnn/lib/libcudnn_cnn.so.9").write_text("an update")
    third = view()
    assert third not in (first, second)

    (third / "lib64/libcublas.so").unlink()  # somebody tidied up
    assert view() == third and (third / "lib64/libcublas.so").is_file()


def test_nvcc_path_is_a_demand_and_processes_may_make_a_view_at_once(tmp_path):
    nvcc = make_toolkit(tmp_path / "cuda", "13.0")
    make_cudnn(tmp_path / "cuda/include", tmp_path / "cuda/lib64")
    code = ("from utils.runtime import cuda\n"
            f"print(cuda.find_toolkit({str(tmp_path / 'cache')!r},"
            " cuda.Gpu('', 90, (13, 0))).nvcc)")
    path = f"{nvcc.parent}:{os.environ['PATH']}"

    def find(demanded):
        return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent.parent,
                                env={**os.environ, "nvcc_path": demanded, "PATH": path},
                                stdout=subprocess.PIPE, text=True)

    runs = [find(str(nvcc)) for _ in range(4)]
    (made,) = {run.communicate()[0].strip() for run in runs}
    assert find(made).communicate()[0].strip() == made  # a view, set by a parent process, is none
    assert Path(made).is_file() and Path(made).parent.parent.parent == (
        tmp_path / "cache/l2sknet-cuda")
    assert len(list((tmp_path / "cache/l2sknet-cuda").iterdir())) == 1


@pytest.mark.parametrize(("release", "gpu", "problem"), [
    ("10.2", H200, "is of CUDA 10.2, and CUDA 11 to 13 can be used"),
    ("13.0", cuda.Gpu("Some GPU", 90, (12, 4)), "the NVIDIA driver supports CUDA 12.4"),
    ("13.0", cuda.Gpu("Old GPU", 61, (13, 0)), "no longer supports the Old GPU"),
    ("13.0", H200, "lacks cuDNN; `.* -m pip install -r .*requirements-cuda13.txt`"),
    ("11.8", cuda.Gpu("Some GPU", 90, (12, 4)), "lacks cuDNN; install CUDA 12 with cuDNN"),
])
def test_what_cannot_be_used_is_named_with_the_cure(tmp_path, find, release, gpu, problem):
    with pytest.raises(UserError, match=problem):
        find(make_toolkit(tmp_path / "cuda", release), gpu=gpu)


def test_what_is_missing_is_named(tmp_path, find):
    with pytest.raises(UserError, match=r"no CUDA compiler \(nvcc\) was found; "):
        find()
    nvcc = make_toolkit(tmp_path / "cuda", "13.0")
    make_cudnn(tmp_path / "cuda/include", tmp_path / "cuda/lib64")
    (tmp_path / "cuda/include/curand.h").unlink()
    shutil.rmtree(tmp_path / "cuda/include/cccl")
    with pytest.raises(UserError, match="lacks curand, cccl; "):
        find(nvcc)
    touch(tmp_path / "libcudnn.so")
    toolkit = cuda.Toolkit("", "", "", "", (tmp_path / "libcudnn.so",))
    with pytest.raises(UserError, match="a CUDA library cannot be loaded: .*libcudnn.so"):
        toolkit.load()


def test_flags_lose_fast_math_and_serve_newer_gpus():
    flags = " -O2 --use_fast_math -w  -arch=compute_90  -code=sm_90 "
    assert "fast_math" not in cuda.adapt_flags(flags, H200)
    assert "-code=compute_90" not in cuda.adapt_flags(flags, H200)
    assert "-code=compute_90" in cuda.adapt_flags(flags, cuda.Gpu("Newer", 120, (13, 0)))


def test_nccl_of_the_wheels(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="nvidia-nccl-cu12"):
        cuda.find_nccl(tmp_path)
    site = tmp_path / "site"
    include, lib = site / "nvidia/nccl/include", site / "nvidia/nccl/lib"
    touch(include / "nccl.h", lib / "libnccl.so.2")
    monkeypatch.setattr(cuda, "_sites", lambda: [site])
    for _ in range(2):  # the second rank finds what the first has made
        found = cuda.find_nccl(tmp_path / "jittor")
        assert found[0] == include
        assert (found[1] / "libnccl.so").resolve() == lib / "libnccl.so.2"
