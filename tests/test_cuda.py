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


def make_cudnn(include, lib, major=9):
    touch(include / "cudnn.h", lib / f"libcudnn.so.{major}", lib / f"libcudnn_ops.so.{major}",
          lib / f"libcudnn_cnn.so.{major}")
    (include / "cudnn_version.h").write_text(
        f"#define CUDNN_MAJOR {major}\n#define CUDNN_MINOR 24\n#define CUDNN_PATCHLEVEL 1\n")


def make_wheels(site, major, cudnn=True, compiler=False, libraries=True):
    """NVIDIA's wheels, each major version in its own layout, without the links named *.so."""
    if libraries:
        for name, header in zip(("cuda_runtime", *HEADERS[1:]), HEADERS):
            folder = site / "nvidia" / ("cu13" if major == 13 else name)
            library = "cudart" if name == "cuda_runtime" else name
            touch(folder / "include" / f"{header}.h", folder / "lib" / f"lib{library}.so.{major}")
        touch(folder.parent / ("cu13" if major == 13 else "cuda_cccl") / "include/cccl/cub/cub.cuh")
        (site / f"nvidia_cuda_runtime_cu{major}-{major}.0.dist-info").mkdir()
    if cudnn:
        make_cudnn(site / "nvidia/cudnn/include", site / "nvidia/cudnn/lib")
        (site / f"nvidia_cudnn_cu{major}-9.24.1.dist-info").mkdir(parents=True)
    return make_nvcc(site / "nvidia/cu13", "13.0") if compiler else None


def find(tmp_path, monkeypatch, nvcc=None, site=None, gpu=H200):
    """The toolkit found, where only these exist."""
    if site:
        monkeypatch.setattr(cuda, "_sites", lambda: [site])
    compilers = [str(nvcc)] if nvcc else []
    monkeypatch.setattr(cuda, "_compilers", lambda cache, views: compilers)
    return cuda.find_toolkit(tmp_path / "cache", gpu)


def view_of(toolkit):
    return Path(toolkit.nvcc).parent.parent


def shims(view):
    return {str(path.relative_to(view / "include")) for path in (view / "include").rglob("*")
            if path.is_file() and not path.is_symlink()}


@pytest.mark.parametrize(("release", "cudnn"), [
    ("12.4", "libcudnn_ops_infer.so"), ("11.8", "libcudnn_ops_infer.so.8")])
def test_toolkit_that_jittor_knows_is_used_as_it_is(tmp_path, monkeypatch, release, cudnn):
    nvcc = make_toolkit(tmp_path / "cuda", release, cudnn)
    toolkit = find(tmp_path, monkeypatch, nvcc)
    assert (toolkit.nvcc, toolkit.cuda, toolkit.cudnn) == (str(nvcc), release, "8")
    assert not (tmp_path / "cache").exists()


def test_wrapper_on_the_path_leads_to_its_toolkit(tmp_path, monkeypatch):
    nvcc = make_toolkit(tmp_path / "cuda", "12.4", "libcudnn_ops_infer.so")
    wrapper = tmp_path / "elsewhere/bin/nvcc"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    wrapper.chmod(0o755)
    assert find(tmp_path, monkeypatch, wrapper).nvcc == str(nvcc)


def test_view_of_cuda_13_with_cudnn_9_of_the_wheels(tmp_path, monkeypatch):
    nvcc = make_toolkit(tmp_path / "cuda", "13.0")
    make_wheels(tmp_path / "site", 13, libraries=False)
    toolkit = find(tmp_path, monkeypatch, nvcc, tmp_path / "site")
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


def test_wrapper_asks_for_cpp17_in_place_of_cpp14_and_changes_nothing_else(tmp_path, monkeypatch):
    nvcc = make_toolkit(tmp_path / "cu da", "13.0")
    make_wheels(tmp_path / "site", 13, libraries=False)
    given = ["-O2", "-std=c++14", "-Xcompiler", "-std:c++14", "-DX=a b", "", "x-std=c++14", "*"]
    toolkit = find(tmp_path, monkeypatch, nvcc, tmp_path / "site")
    run = subprocess.run([toolkit.nvcc, *given], capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout.split("\n")[:-1] == ["-O2", "-std=c++17", *given[2:]]


def test_view_of_cuda_12_with_cudnn_9_has_fewer_shims(tmp_path, monkeypatch):
    nvcc = make_toolkit(tmp_path / "cuda", "12.8")
    touch(tmp_path / "cuda/include/npp.h")
    make_wheels(tmp_path / "site", 12)
    toolkit = find(tmp_path, monkeypatch, nvcc, tmp_path / "site",
                   cuda.Gpu("Some GPU", 61, (12, 8)))
    assert shims(view_of(toolkit)) == {"cudnn.h"}
    run = subprocess.run([toolkit.nvcc, "-std=c++14"], capture_output=True, text=True)
    assert run.stdout == "-std=c++14\n"


def test_toolkits_own_parts_come_before_the_wheels(tmp_path, monkeypatch):
    nvcc = make_toolkit(tmp_path / "cuda", "12.8")
    (tmp_path / "cuda/lib64/libcurand.so.12").unlink()
    (tmp_path / "cuda/lib64/libcurand.so").unlink()
    make_wheels(tmp_path / "site", 12)
    lib = view_of(find(tmp_path, monkeypatch, nvcc, tmp_path / "site")) / "lib64"
    assert tmp_path / "cuda" in Path(os.path.realpath(lib / "libcublas.so")).parents
    assert tmp_path / "site" in Path(os.path.realpath(lib / "libcurand.so")).parents


def test_wheels_alone_are_enough(tmp_path, monkeypatch):
    nvcc = make_wheels(tmp_path / "site", 13, compiler=True)
    view = view_of(find(tmp_path, monkeypatch, nvcc, tmp_path / "site"))
    assert (view / "lib64/libcublas.so").is_file() and (view / "include/cublas.h").is_file()


def test_wheels_of_another_cuda_are_left_alone(tmp_path, monkeypatch):
    nvcc = make_toolkit(tmp_path / "cuda", "12.8")
    make_wheels(tmp_path / "site", 13)
    with pytest.raises(UserError, match="lacks cuDNN"):
        find(tmp_path, monkeypatch, nvcc, tmp_path / "site")


def test_view_is_made_once_and_anew_when_its_parts_change(tmp_path, monkeypatch):
    copy = tmp_path / "shims"
    shutil.copytree(cuda.SHIMS, copy)
    monkeypatch.setattr(cuda, "SHIMS", copy)
    nvcc = make_toolkit(tmp_path / "cuda", "13.0")
    make_wheels(tmp_path / "site", 13, libraries=False)

    def view():
        return view_of(find(tmp_path, monkeypatch, nvcc, tmp_path / "site"))

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


def test_processes_may_make_a_view_at_once(tmp_path, monkeypatch):
    nvcc = make_toolkit(tmp_path / "cuda", "13.0")
    make_cudnn(tmp_path / "cuda/include", tmp_path / "cuda/lib64")
    code = ("from utils.runtime import cuda\n"
            "gpu = cuda.Gpu('', 90, (13, 0))\n"
            f"print(cuda.find_toolkit({str(tmp_path / 'cache')!r}, gpu).nvcc)")
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent.parent,
                             env={**os.environ, "nvcc_path": str(nvcc)}, stdout=subprocess.PIPE)
            for _ in range(4)]
    answers = {run.communicate()[0] for run in runs}
    assert len(answers) == 1 and Path(answers.pop().decode().strip()).is_file()
    assert len(list((tmp_path / "cache/l2sknet-cuda").iterdir())) == 1


@pytest.mark.parametrize(("release", "gpu", "problem"), [
    ("10.2", H200, "is of CUDA 10.2, and CUDA 11 to 13 can be used"),
    ("13.0", cuda.Gpu("Some GPU", 90, (12, 4)), "the NVIDIA driver supports CUDA 12.4"),
    ("13.0", cuda.Gpu("Old GPU", 61, (13, 0)), "dropped the Old GPU"),
    ("13.0", H200, "lacks cuDNN; `.* -m pip install -r .*requirements-cuda13.txt`"),
    ("11.8", cuda.Gpu("Some GPU", 90, (12, 4)), "lacks cuDNN; install CUDA 12 with cuDNN"),
])
def test_what_cannot_be_used_is_named_with_the_cure(tmp_path, monkeypatch, release, gpu, problem):
    nvcc = make_toolkit(tmp_path / "cuda", release)
    with pytest.raises(UserError, match=problem):
        find(tmp_path, monkeypatch, nvcc, gpu=gpu)


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    nvcc = make_toolkit(tmp_path / "cuda", "13.0")
    make_cudnn(tmp_path / "cuda/include", tmp_path / "cuda/lib64")
    (tmp_path / "cuda/include/curand.h").unlink()
    shutil.rmtree(tmp_path / "cuda/include/cccl")
    with pytest.raises(UserError, match="lacks curand, cccl; "):
        find(tmp_path, monkeypatch, nvcc)


def test_no_compiler(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no CUDA compiler \(nvcc\) was found; "):
        find(tmp_path, monkeypatch)


def test_nvcc_path_is_a_demand_unless_it_is_a_view(tmp_path, monkeypatch):
    views = tmp_path / "l2sknet-cuda"
    monkeypatch.setenv("nvcc_path", "/mine/bin/nvcc")
    assert cuda._compilers(tmp_path, views) == ["/mine/bin/nvcc"]
    monkeypatch.setenv("nvcc_path", str(views / "0123/bin/nvcc"))  # set by a parent process
    assert "0123" not in str(cuda._compilers(tmp_path, views))


def test_library_that_cannot_be_loaded_is_named(tmp_path):
    touch(tmp_path / "libcudnn.so")
    toolkit = cuda.Toolkit("", "", "", "", (tmp_path / "libcudnn.so",))
    with pytest.raises(UserError, match="a CUDA library cannot be loaded: .*libcudnn.so"):
        toolkit.load()


def test_flags_lose_fast_math_and_serve_newer_gpus():
    flags = " -O2 --use_fast_math -w  -arch=compute_90  -code=sm_90 "
    assert "fast_math" not in cuda.adapt_flags(flags, H200)
    assert "-code=compute_90" not in cuda.adapt_flags(flags, H200)
    assert "-code=compute_90" in cuda.adapt_flags(flags, cuda.Gpu("Newer", 120, (13, 0)))


def test_nccl_of_the_system_or_of_wheels(monkeypatch, tmp_path):
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
    touch(tmp_path / "include/nccl.h", tmp_path / "lib/libnccl.so")
    system = tmp_path / "include", tmp_path / "lib"
    monkeypatch.setattr(cuda, "_system_folders", lambda: [system])
    assert cuda.find_nccl(tmp_path / "jittor") == system
