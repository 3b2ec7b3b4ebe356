"""test.py --input with a clip."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from brightness import GAIN, LEVEL
from PIL import Image
from scipy.io import loadmat
from scripts import assert_written, complaint, needs, read_table
from test_own_images import interrupt_after

from utils.data.video import ClipSource
from utils.errors import UserError

needs_av = needs("av", requirements="video")
pytestmark = pytest.mark.usefixtures("cpu")

UNET = "L2SKNet_UNet"
HEIGHT, WIDTH, RATE, LENGTH = 20, 30, 25, 12


def moving(dtype=np.uint16, full=65535, length=LENGTH):
    """Frames of noise with one target, at column 3 + the index of the frame."""
    rng = np.random.default_rng(0)
    made = rng.integers(full // 10, full // 4, (length, HEIGHT, WIDTH)).astype(dtype)
    for index, frame in enumerate(made):
        frame[9, 3 + index] = full
    return made


def save_clip(path, images, codec="ffv1", kind="gray16le", first=0):
    """Writes grey frames, or colours H×W×3, as they are.

    Args:
        kind: FFmpeg's name of the pixels.
        first: time of the first frame, in frames.
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], kind
        for index, image in enumerate(images):
            frame = av.VideoFrame(image.shape[1], image.shape[0], kind)
            plane = frame.planes[0]
            rows = image.reshape(len(image), -1)
            padded = np.zeros((len(image), plane.line_size // image.itemsize), image.dtype)
            padded[:, : rows.shape[1]] = rows
            plane.update(padded.tobytes())
            frame.pts = first + index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path):
    return [frame.read(False) for frame in ClipSource(path)]


@needs_av
def test_pixels_keep_their_depth(tmp_path):
    deep = moving()
    np.testing.assert_array_equal(read(save_clip(tmp_path / "a:b.mkv", deep)), deep)
    for bits in (10, 12):
        full = 2**bits - 1
        raw = moving(full=full)
        found = read(save_clip(tmp_path / f"{bits}.mkv", raw, kind=f"gray{bits}le"))
        assert found[0].dtype == np.uint16
        np.testing.assert_allclose(found, np.float64(raw) * 65535 / full, atol=1)
    plain = moving(np.uint8, 255)
    for name, codec, kind in (("a.avi", "rawvideo", "gray"), ("b.avi", "rawvideo", "bgr24"),
                              ("c.mov", "png", "gray")):
        images = np.repeat(plain[..., None], 3, axis=3) if kind == "bgr24" else plain
        found = read(save_clip(tmp_path / name, images, codec, kind))
        assert found[0].dtype == np.uint8
        np.testing.assert_array_equal(found, plain)
    green = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    green[..., 1] = 255
    (found,) = read(save_clip(tmp_path / "green.avi", [green], "rawvideo", "bgr24"))
    assert (found == 150).all()  # 0.587 of 255, as for an image


@needs_av
def test_a_clip_is_predicted_frame_by_frame(tmp_path, predicts, capsys):
    images = moving()
    clip, out = save_clip(tmp_path / "clip.mkv", images), tmp_path / "out"
    for _ in range(2):  # the second run writes the same again
        predicts("--input", clip, "--output", out, "--overlay_video", "--boxes", "coco")
        assert f"{LENGTH} images in " in capsys.readouterr().out
        names = [f"{index:06d}" for index in range(LENGTH)]
        assert_written(out, UNET, names)
    probability = loadmat(out / "mat" / UNET / "000007.mat")["T"]
    expected = 1 / (1 + np.exp(-GAIN * (images[7] / 65535 - LEVEL)))
    np.testing.assert_allclose(probability, expected, atol=1e-4)
    rows = read_table(out / "detections" / f"{UNET}.csv")
    assert list(rows[0])[:5] == ["file", "frame", "time", "x", "y"]
    assert [(row["file"], int(row["frame"]), float(row["time"]), float(row["x"])) for row in rows
            ] == [("clip.mkv", index, index / RATE, 3 + index) for index in range(LENGTH)]
    content = json.loads((out / "detections" / f"{UNET}.json").read_text())
    first = content["images"][1]
    assert (first["file"], first["frame"], first["time"], first["width"]) == (
        "clip.mkv", 1, 1 / RATE, WIDTH)
    coco = json.loads((out / "detections" / f"{UNET}.coco.json").read_text())
    assert [each["file_name"] for each in coco["images"]] == [f"{name}.png" for name in names]

    assert sorted(path.name for path in (out / "overlay").iterdir()) == [UNET, f"{UNET}.mp4"]
    import av

    with av.open(str(out / "overlay" / f"{UNET}.mp4")) as container:
        shown = list(container.decode(video=0))
    assert [frame.time for frame in shown] == [index / RATE for index in range(LENGTH)]
    picture = np.asarray(Image.open(out / "overlay" / UNET / "000003.png").convert("L"), float)
    grey = np.asarray(shown[3].to_image().convert("L"), float)
    assert grey.shape == picture.shape and np.abs(grey - picture).mean() < 6


@needs_av
@pytest.mark.parametrize("name, codec, kind", [
    ("cut.mkv", "ffv1", "gray16le"), ("cut.avi", "rawvideo", "gray")])
def test_a_truncated_clip_keeps_what_was_read(tmp_path, predicts, name, codec, kind):
    images = moving() if kind == "gray16le" else moving(np.uint8, 255)
    clip = save_clip(tmp_path / name, images, codec, kind)
    content = clip.read_bytes()
    clip.write_bytes(content[: int(0.6 * len(content))])
    error = complaint(predicts, "--input", clip, "--output", tmp_path / "out", "--overlay_video",
                      "--no_overlay")
    maps = sorted((tmp_path / "out" / "mat" / UNET).iterdir())
    assert 1 < len(maps) < LENGTH
    assert error.startswith(f"{clip}: breaks off after frame {len(maps) - 1}, at ")
    content = json.loads((tmp_path / "out" / "detections" / f"{UNET}.json").read_text())
    assert [each["frame"] for each in content["images"]] == [*range(len(maps))]
    assert [each["file"] for each in content["unreadable"]] == [name]
    assert [each.name for each in (tmp_path / "out" / "overlay").iterdir()] == [f"{UNET}.mp4"]


@needs_av
@pytest.mark.parametrize("name", ["late.mkv", "late.mp4"])
def test_a_clip_whose_picture_begins_late_is_whole(tmp_path, name):
    codec, kind = ("ffv1", "gray16le") if name.endswith("mkv") else ("mpeg4", "yuv420p")
    images = moving() if kind == "gray16le" else np.full((LENGTH, 30, 20), 99, np.uint8)
    clip = save_clip(tmp_path / name, images, codec, kind, first=RATE)
    frames = list(ClipSource(clip))
    assert [frame.index for frame in frames] == [*range(LENGTH)]
    assert [frame.time for frame in frames] == [index / RATE for index in range(LENGTH)]


@needs_av
def test_a_damaged_frame_is_named_and_the_others_are_read(tmp_path):
    clip = save_clip(tmp_path / "clip.mov", moving(np.uint8, 255), "png", "gray")
    content = bytearray(clip.read_bytes())
    start = [at for at in range(len(content)) if content[at : at + 4] == b"\x89PNG"][5]
    content[start : start + 60] = bytes(60)
    clip.write_bytes(content)
    *good, last = ClipSource(clip)
    assert [frame.index for frame in good] == [*range(LENGTH - 1)]
    assert [round(frame.time * RATE) for frame in good] == [
        index for index in range(LENGTH) if index != 5]
    with pytest.raises(UserError, match="1 damaged frame left out, the first after frame 4"):
        last.read(False)


@needs_av
def test_bad_clips_and_flags_are_refused_in_one_line(tmp_path, predicts):
    (tmp_path / "bad.mp4").write_text("no clip")
    for name, said in (("bad.mp4", "cannot be read as a video"), ("none.mkv", "no such file")):
        with pytest.raises(UserError, match=f"^{tmp_path / name}: {said}.*$"):
            predicts("--input", tmp_path / name, "--output", tmp_path / "out")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: no clip; leave out --overlay_video"):
        predicts("--input", tmp_path / "a.png", "--output", tmp_path / "out", "--overlay_video")
    assert not (tmp_path / "out").exists()


@needs_av
def test_an_interruption_leaves_no_half_written_file(tmp_path, predicts, monkeypatch):
    clip = save_clip(tmp_path / "clip.mkv", moving())
    interrupt_after(7, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predicts("--input", clip, "--output", tmp_path / "out", "--overlay_video", "--num_workers",
                 2)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == sorted([
        f"{UNET}.csv", f"{UNET}.json", *[f"{i:06d}.mat" for i in range(7)],
        *[f"{i:06d}.png" for i in range(7)] * 2])


def test_without_the_package_one_line_says_what_to_install(tmp_path, predicts, monkeypatch):
    (tmp_path / "clip.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"clip\.mp4: needs the package av; "
                                        r"pip install -r requirements-video\.txt$"):
        predicts("--input", tmp_path / "clip.mp4", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
