"""The loader: layouts, everything that can be wrong with a dataset, and the batches."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from PIL import Image

from utils import datasets
from utils.datasets import load_split, load_splits, num_train_batches, train_batches
from utils.errors import UserError
from utils.recipe import Recipe


def write(folder, sizes, split="train", extension=".png", dtype=np.uint8):
    """Images of noise with one target each, called 00, 01, ...; returns the arrays."""
    rng = np.random.default_rng(len(sizes))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    images, masks = [], []
    for index, (height, width) in enumerate(sizes):
        images.append(rng.integers(0, np.iinfo(dtype).max, (height, width), dtype, endpoint=True))
        masks.append(np.zeros((height, width), np.uint8))
        masks[-1][2:4, 3:5] = 1
        Image.fromarray(images[-1]).save(folder / "images" / f"{index:02d}{extension}")
        Image.fromarray(masks[-1] * np.uint8(255)).save(folder / "masks" / f"{index:02d}.png")
    names = [f"{index:02d}" for index in range(len(sizes))]
    (folder / f"{split}.txt").write_text("\n".join(names))
    return images, masks


def rename(folder, old, new):
    for kind in ("images", "masks"):
        path = folder / kind / f"{new}.png"
        path.parent.mkdir(exist_ok=True)
        (folder / kind / f"{old}.png").rename(path)


def batches_of(batch_size, image_size=16, seed=0, **others):
    return Recipe(batch_size=batch_size, image_size=image_size, seed=seed, **others)


def soften(path):
    """Gives a mask of `write` a grey edge: 200 counts as target, 90 does not."""
    mask = np.asarray(Image.open(path)).copy()
    mask[4, 3:5] = 200, 90
    Image.fromarray(mask).save(path)


def relay(folder, images="images", masks="masks", suffix="", lists=None):
    """Moves what `write` has made into another layout; lists: place → names."""
    for path in sorted((folder / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}{suffix}{path.suffix}"))
    for old, new in (("images", images), ("masks", masks)):
        if old != new:
            (folder / old).rename(folder / new)
    (folder / "train.txt").unlink()
    for place, names in (lists or {}).items():
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text("\n".join(names))
    return folder


@pytest.fixture
def split(tmp_path):
    write(tmp_path / "SET", [(16, 16)] * 11)
    return load_split(tmp_path, "SET", "train")


def refused(tmp_path, **options):
    with pytest.raises(UserError) as error:
        load_split(tmp_path, "SET", "train", **options)
    return str(error.value)


def assert_rows(split, rows, images, masks):
    """The list has the images and masks of these rows."""
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(split.images[place], images[row])
        np.testing.assert_array_equal(split.masks[place], masks[row])


# What is read


@pytest.mark.parametrize("extension", [".png", ".bmp", ".TIF", ".tiff", ".PNG"])
def test_arrays_come_back_in_the_order_of_the_list(tmp_path, extension):
    images, masks = write(tmp_path / "SET", [(12, 20), (9, 9), (30, 8)], extension=extension)
    (tmp_path / "SET" / "train.txt").write_text("02\n00\n01\n")
    for num_workers in (0, 3):
        split = load_split(tmp_path, "SET", "train", num_workers=num_workers)
        assert split.names == ["02", "00", "01"] and split.folder == tmp_path / "SET"
        assert_rows(split, (2, 0, 1), images, masks)


@pytest.mark.parametrize("content", [
    "\ufeff 00.png \r\n\r\n02.BMP\r\n\t01\r\n\r\n", '"00"\n\'02\'\n01\n', "00,\n02,\n01,\n",
    "00\uff0c02\u300101", '["00.png", "02.png", "01"]', '[\n  "00",\n  "02",\n  "01"\n]\n',
    "00.png 00_mask.png\n02.png 02_mask.png\n01.png 01_mask.png\n",
    "00,00.png\n02,02.png\n01,01.png",
    "images/00.png\tmasks/00.png\nimages/02.png\tmasks/02.png\nimages/01.png\tmasks/01.png",
    "00 1\n02 -1\n01 0\n", "image,mask\n00.png,00.png\n02.png,02.png\n01.png,01.png\n",
    "1,00\n2,02\n3,01\n" , "# all\n00\n02 # blurred\n\n% end\n01\n",
    "./images/00.png\nimages/02\n/01\n",
    "/home/li/SET/images/00.png\n# see images/01.png\n/my data/images/02.png\n/images/01.png\n",
    "D:\\SET\\images\\00.png\r\nD:\\SET\\images\\02.png\r\nD:\\SET\\images\\01.png\r\n",
    "\ufeff\u200b00\n02\u200b\n\u206001\u00a0\n",
], ids="blanks quotes commas one-line json json-lines mask-column csv tabs labels headings "
       "numbered comments relative absolute windows unseen".split())
def test_lists_as_people_write_them(tmp_path, content):
    write(tmp_path / "SET", [(8, 8)] * 3)
    (tmp_path / "SET" / "train.txt").write_bytes(content.encode())
    assert load_split(tmp_path, "SET", "train").names == ["00", "02", "01"]


def test_names_in_folders(tmp_path):
    """IRDST: /44/1(814) is images/44/1(814).png."""
    images, masks = write(tmp_path / "SET", [(8, 8)] * 4)
    for index, name in enumerate(("43/1(810)", "44/1(810)", "44/1(814)", "seq.01")):
        rename(tmp_path / "SET", f"{index:02d}", name)
    (tmp_path / "SET" / "train.txt").write_text("/44/1(814)\n/43/1(810)\n44/1(810).png\nseq.01\n")
    split = load_split(tmp_path, "SET", "train")
    assert split.names == ["44/1(814)", "43/1(810)", "44/1(810)", "seq.01"]
    assert_rows(split, (2, 0, 1, 3), images, masks)
    (tmp_path / "SET" / "train.txt").write_text("1(814)\n")
    assert load_split(tmp_path, "SET", "train").names == ["44/1(814)"]  # the only one
    (tmp_path / "SET" / "train.txt").write_text("1(810)\n43/1(814)\n/etc/passwd\n")
    for name in ("1(810)", "43/1(814)", "etc/passwd"):
        assert f"SET/images/{name}: no such image (png, bmp, " in refused(tmp_path)


@pytest.mark.parametrize("listed, stored", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_either_form_of_unicode(tmp_path, listed, stored):
    name = "gr\u00f6\u00dfe\u0301_\ud55c\uad6d"
    write(tmp_path / "SET", [(8, 8)] * 2)
    rename(tmp_path / "SET", "01", unicodedata.normalize(stored, name))
    (tmp_path / "SET" / "train.txt").write_text(
        f"00\n{unicodedata.normalize(listed, name)}\n", encoding="utf-8")
    split = load_split(tmp_path, "SET", "train")
    assert split.names == ["00", unicodedata.normalize("NFC", name)] and len(split.masks) == 2


def test_lists_of_windows_in_china(tmp_path):
    write(tmp_path / "SET", [(8, 8)] * 2)
    rename(tmp_path / "SET", "01", "\u56fe\u50cf1")
    for encoding in ("gbk", "utf-16"):  # GBK is read if one of its Chinese names is there
        text = "00.png\r\n\u56fe\u50cf1.png\r\n\x1a"
        (tmp_path / "SET" / "train.txt").write_bytes(text.encode(encoding))
        assert load_split(tmp_path, "SET", "train").names == ["00", "\u56fe\u50cf1"]
    (tmp_path / "SET" / "train.txt").write_bytes("\u56fe\u50cf1\n\u56fe\u50cf2\n".encode("gbk"))
    assert "\u56fe\u50cf2: no such image" in refused(tmp_path)
    (tmp_path / "SET" / "train.txt").write_bytes("00\n\u56fe\u50cf2\n".encode("gbk"))
    assert refused(tmp_path).endswith("(neither UTF-8 nor GBK); save it as UTF-8 text")


def test_names_with_blanks_of_which_one_is_missing(tmp_path):
    write(tmp_path / "SET", [(8, 8)] * 2)
    rename(tmp_path / "SET", "01", "image (2)")
    (tmp_path / "SET" / "train.txt").write_text("image (1)\nimage (2)\n00\n")
    split = load_split(tmp_path, "SET", "train", skip_bad=True)
    assert split.names == ["image (2)", "00"] and list(split.skipped) == ["image (1)"]
    assert "images/image (1): no such image" in split.skipped["image (1)"][0]
    (tmp_path / "SET" / "train.txt").write_text(
        "image,mask_256\nimage (2).png,image (2).png\n[ odd\n")
    split = load_split(tmp_path, "SET", "train", skip_bad=True)
    assert split.names == ["image (2)"] and list(split.skipped) == ["[ odd"]


LAYOUTS = {
    "IRSTD-1K": ("IRSTD1k_Img", "IRSTD1k_Label", "",
                 ("img_idx/train_IRSTD-1K.txt", "img_idx/test_IRSTD-1K.txt")),
    "IRSTD-1k": ("IRSTD1k_Img", "IRSTD1k_Label", "", ("trainval.txt", "test.txt")),
    "irstd": ("images", "masks", "", ("img_idx/train_IRSTD-1K.txt", "img_idx/test_IRSTD-1K.txt")),
    "NUAA-SIRST": ("images", "masks", "_pixels0",
                   ("img_idx/train_NUAA-SIRST.txt", "img_idx/test_NUAA-SIRST.txt")),
    "sirst": ("images", "masks", "_pixels0", ("idx_427/trainval.txt", "idx_427/test.txt")),
    "sirst_aug": ("images", "masks", "_mask", ("img_idx/train.txt", "img_idx/test.txt")),
    "SIRST3": ("images", "masks", "", ("img_idx/trainval.txt", "img_idx/test.txt")),
    "NUDT": ("images", "masks", "", ("50_50/train.txt", "50_50/test.txt")),  # DNANet
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_public_layouts(tmp_path, name):
    images, masks = write(tmp_path / name, [(12, 10), (9, 14), (8, 8)])
    *folders, lists = LAYOUTS[name]
    relay(tmp_path / name, *folders, dict(zip(lists, (["02", "00"], ["01"]))))
    train, test = load_splits(tmp_path, name)
    assert (train.names, test.names) == (["02", "00"], ["01"])
    assert_rows(train, (2, 0), images, masks)
    assert_rows(test, (1,), images, masks)


def test_a_folder_for_each_list(tmp_path):
    for part, count in (("trainval", 3), ("test", 2)):
        images, masks = write(tmp_path / "SIRST_AUG" / part, [(8, 8)] * count)
        relay(tmp_path / "SIRST_AUG" / part, suffix="_mask")
        split = load_split(tmp_path, "SIRST_AUG", part.replace("val", ""))
        assert split.names == [f"{index:02d}" for index in range(count)]
        assert_rows(split, range(count), images, masks)


def test_the_real_dataset(nudt):
    train, test = load_splits(nudt.parent, nudt.name)
    for split, count, targets in ((train, 663, "918 targets on 29337"),
                                  (test, 664, "945 targets on 28315")):
        assert split.describe() == (
            f"{nudt.name} {split.name}: {count} images, 256x256, 8 bit; "
            f"{targets} pixels, 0 images without a target")
    assert not set(train.names) & set(test.names)
    assert num_train_batches(train, Recipe()) == 83


# What is said of it


def test_describe(tmp_path):
    write(tmp_path / "SET", [(8, 16)] * 3)
    diagonal = np.zeros((8, 16), np.uint8)
    diagonal[1, 1] = diagonal[2, 2] = diagonal[6, 9] = 1  # the first two touch at a corner
    Image.fromarray(diagonal).save(tmp_path / "SET" / "masks" / "01.png")
    Image.fromarray(diagonal * 0).save(tmp_path / "SET" / "masks" / "02.png")
    assert load_split(tmp_path, "SET", "train").describe() == (
        "SET train: 3 images, 16x8, 8 bit; 3 targets on 7 pixels, 1 image without a target")
    for kind, dtype in (("images", np.uint16), ("masks", np.uint8)):
        Image.fromarray(np.zeros((9, 9), dtype)).save(tmp_path / "SET" / kind / "01.png")
    line = load_split(tmp_path, "SET", "train").describe()
    assert line.startswith("SET train: 3 images, 2 sizes from 9x9 to 16x8, 8 and 16 bit; 1 target ")
    (tmp_path / "SET" / "masks").rename(tmp_path / "elsewhere")
    split = load_split(tmp_path, "SET", "train", masks_required=False)
    assert split.masks == [] and split.describe().endswith(", 8 and 16 bit")


def test_grey_masks_are_counted_and_soft_where_asked(tmp_path):
    _, masks = write(tmp_path / "SET", [(16, 16)] * 3)
    soften(tmp_path / "SET" / "masks" / "01.png")
    split = load_split(tmp_path, "SET", "train")
    assert split.describe().endswith("; 3 targets on 13 pixels, 0 images without a target; "
                                     "1 mask with grey values, target above half")
    hard = masks[1].astype(float)
    hard[4, 3] = 1
    np.testing.assert_array_equal(split.masks[1], hard)
    ((names, _, y),) = train_batches(split, batches_of(3), 1)
    np.testing.assert_array_equal(y[names.index("01"), 0], hard)
    ((again, _, soft),) = train_batches(split, batches_of(3, soft_masks=True), 1)
    assert again == names and soft.dtype == np.float32
    hard[4, 3:5] = 200 / 255, 90 / 255
    np.testing.assert_allclose(soft[names.index("01"), 0], hard, rtol=1e-7)
    others = [i for i, name in enumerate(names) if name != "01"]
    np.testing.assert_array_equal(soft[others], y[others])


# What is refused


def test_missing_datasets_and_folders(tmp_path):
    text = refused(tmp_path)
    assert text.startswith(f"{tmp_path / 'SET'}: no dataset 'SET' here; put or link")
    assert "--dataset_dir" in text and "\n" not in text
    write(tmp_path / "SET", [(8, 8)])
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(UserError, match=f"with --dataset_dir; {tmp_path} holds SET$"):
        load_split(tmp_path, "OTHER", "train")
    with pytest.raises(UserError, match=f"try --dataset_dir {tmp_path} --dataset_name SET"):
        load_split(tmp_path / "SET", "SET", "train")
    for kind in ("masks", "images"):
        (tmp_path / "SET" / kind).rename(tmp_path / "SET" / f"other {kind}")
        assert refused(tmp_path).startswith(f"{tmp_path / 'SET' / kind}: no such folder;")


@pytest.mark.parametrize("content, says", [
    (None, "no train list (nor 50_50/train.txt, img_idx/train_SET.txt, "),
    (" \r\n\n", "the list is empty"),
    ("00\n01\n00.png\n", "named more than once: 00"),
    ("\udcff0\0", "save it as UTF-8"),
    ("00\n" + "a" * 10**6, "is no name; save the list as text"),
    ("00\n\x1b[2J\x00", 'line 2 "\\x1b[2J\\x00" is no name; save the list as text'),
    ("00\n../images/01\n", 'line 2 "../images/01" leads out of the folder'),
    ("00\n../../01.png\n", 'line 2 "../../01.png" leads out of the folder'),
    ("00 01\n02\n", 'line 1 "00 01" names 2 images'),
    ("00,01\n02,00\n", 'line 1 "00,01" names 2 images'),
    ("images/00.png images/01.png\n02\n", 'line 1 "images/00.png images/01.png" names 2 images'),
    ("00\n01 and 02\n", 'line 2 "01 and 02" names 2 images and more'),
    ("00\n01 0199\n", 'line 2 "01 0199" names no image, and has a blank in it'),
    ("00\na|b\n", 'line 2 "a|b" names no image, and has | in it; write a name of images/ on each'),
])
def test_bad_lists(tmp_path, content, says):
    write(tmp_path / "SET", [(8, 8)] * 3)
    path = tmp_path / "SET" / "train.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    text = refused(tmp_path)
    assert text.startswith(f"{path}: ") and says in text and "\n" not in text


def test_what_is_ambiguous_is_refused(tmp_path):
    root = relay(write(tmp_path / "SET", [(8, 8)] * 2) and tmp_path / "SET",
                 lists={"img_idx/train_A.txt": ["00"], "img_idx/train_B.txt": ["01"]})
    text = refused(tmp_path)
    assert text.startswith(f"{root}/img_idx/train_A.txt: which is the train list, this or train_B")
    (root / "train.txt").write_text("01")
    assert load_split(tmp_path, "SET", "train").names == ["01"]
    (root / "IRSTD1k_Img").mkdir()
    assert refused(tmp_path) == f"{root}/images: lies beside IRSTD1k_Img/; remove one of them"


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_turn_that_exif_explains(tmp_path, kind):
    write(tmp_path / "SET", [(8, 12)])
    path = tmp_path / "SET" / "masks" / "00.png"
    mask = Image.open(path).transpose(Image.Transpose.ROTATE_270)
    exif = Image.Exif()
    exif[0x0112] = 6
    mask.save(path, exif=exif if kind == "mask" else None)
    assert refused(tmp_path).endswith("the mask is 8x12 but the image is 12x8 (width x height); "
                                      "give both the same size") is (kind == "image")
    image = tmp_path / "SET" / "images" / "00.png"
    if kind == "image":
        Image.open(image).save(image, exif=exif)
    assert refused(tmp_path).endswith(
        f"the {kind}'s EXIF orientation 6 explains the turn: save the {kind} with its pixels "
        "turned and without this tag")


def test_all_the_bad_files_are_listed_at_once_or_left_out(tmp_path):
    root = tmp_path / "SET"
    _, masks = write(root, [(16, 16)] * 8)
    (root / "images" / "01.png").unlink()
    (root / "masks" / "02.png").rename(root / "masks" / "02.mat")
    (root / "images" / "03.png").write_bytes(b"not a picture")
    (root / "masks" / "04.png").write_bytes((root / "masks" / "04.png").read_bytes()[:50])
    Image.fromarray(np.zeros((16, 12), np.uint8)).save(root / "masks" / "05.png")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(root / "masks" / "06.png")
    soften(root / "masks" / "07.png")
    # A name in both lists is reported once; 07 is sound, 99 is in the test list alone.
    (root / "test.txt").write_text("07\n03\n99\n")
    with pytest.raises(UserError) as error:
        load_splits(tmp_path, "SET")
    first, *lines = str(error.value).split("\n")
    assert first.startswith(f"{root}: 8 files cannot be used")
    assert first.endswith("or leave them out with --skip_bad:") and len(lines) == 8
    for line, file, says in zip(
        lines, "images/01 masks/02.mat images/03.png masks/04.png masks/05.png masks/06.png "
        "images/99 masks/99".split(),
        ["no such image", "no type of mask that is read (png, ", "cannot be read", "cannot be read",
         "the mask is 12x16 but the image is 16x16", "not a binary mask (values 0, 1, 2, 3",
         "no such image", "no such mask"]):
        assert line.startswith(f"  {root}/{file}: ") and says in line
    split = load_split(tmp_path, "SET", "train", skip_bad=True)
    assert split.names == ["00", "07"] and list(split.levels) == [1]
    np.testing.assert_array_equal(split.masks[0], masks[0])
    assert split.describe().endswith(
        "target above half; 6 pairs left out: 01, 02, 03, 04, 05, 06")
    assert [line for lines in split.skipped.values() for line in lines] == [
        line.strip() for line in lines[:6]]
    for name in ("00", "07"):
        (root / "masks" / f"{name}.png").unlink()
    assert refused(tmp_path, skip_bad=True).startswith(
        f"{root}/train.txt: --skip_bad leaves none of its images; the first: {root}/masks/00: ")


# Batches


def test_train_batches_hold_images_at_the_size_asked_for(tmp_path):
    images, masks = write(tmp_path / "SET", [(32, 32), (20, 48)], dtype=np.uint16)
    split = load_split(tmp_path, "SET", "train")
    ((names, x, y),) = train_batches(split, batches_of(2, 32), 1)
    assert x.shape == y.shape == (2, 1, 32, 32) and x.dtype == y.dtype == np.float32
    place = names.index("00")
    np.testing.assert_array_equal(x[place, 0], images[0].astype(np.float32) / np.float32(65535))
    np.testing.assert_array_equal(y[place, 0], masks[0])
    assert set(np.unique(y)) == {0, 1} and 0 <= x.min() and x.max() <= 1
    assert split.images[1].shape == (20, 48)  # the native size is kept for testing
    with pytest.raises(UserError, match="2 sizes from 48x20 to 32x32; cut them with --crop PIXELS"):
        next(train_batches(split, batches_of(2, 0), 1))
    images, masks = write(tmp_path / "ONE", [(20, 28)] * 3)
    split = load_split(tmp_path, "ONE", "train")
    ((names, x, y),) = train_batches(split, batches_of(3, 0), 1)
    assert x.shape == y.shape == (3, 1, 20, 28)
    for name, image, mask in zip(names, x, y):
        np.testing.assert_array_equal(image[0], images[int(name)].astype(np.float32) / 255)
        np.testing.assert_array_equal(mask[0], masks[int(name)])
    # Flipped, never transposed.
    ((_, x, _),) = train_batches(split, batches_of(3, 0, augment=True), 1)
    assert x.shape == (3, 1, 20, 28)


def names_of(split, seed=0, epoch=1, batch_size=4, start=0):
    recipe = batches_of(batch_size, seed=seed)
    return [names for names, *_ in train_batches(split, recipe, epoch, start)]


def test_the_order_depends_on_seed_and_epoch_alone(split):
    batches = names_of(split)
    assert sorted(sum(batches, [])) == split.names  # every image once
    orders = {(s, e): names_of(split, s, e) for s in (0, 1, 42) for e in (1, 2, 3)}
    assert len({str(order) for order in orders.values()}) == 9
    assert orders[42, 2] == names_of(split, 42, 2)
    for start in range(4):
        assert names_of(split, start=start) == batches[start:]


def test_batches_of_less_than_two_are_skipped_or_refused(split, tmp_path):
    for batch_size, sizes in ((2, [2] * 5), (5, [5, 5]), (4, [4, 4, 3])):
        assert [len(names) for names in names_of(split, batch_size=batch_size)] == sizes
        assert num_train_batches(split, batches_of(batch_size)) == len(sizes)
    for batch_size in (1, 0, -3):
        with pytest.raises(UserError, match=f"--batch_size {batch_size}: must be at least 2"):
            num_train_batches(split, batches_of(batch_size))
    write(tmp_path / "ONE", [(8, 8)])
    with pytest.raises(UserError, match="one image"):
        num_train_batches(load_split(tmp_path, "ONE", "train"), Recipe())


def test_test_batches_hold_every_image_once_with_its_kind(tmp_path):
    sizes = [(16, 24), (9, 10), (16, 24), (24, 16), (16, 24), (9, 10), (16, 24)]
    images, _ = write(tmp_path / "SET", sizes, "test")
    split = load_split(tmp_path, "SET", "test")
    batches = list(datasets.test_batches(split, 3))
    assert [indices for indices, _ in batches] == [[1, 5], [0, 2, 4], [6], [3]]
    for indices, x in batches:
        assert x.dtype == np.float32 and x.shape == (len(indices), 1, *sizes[indices[0]])
        for index, image in zip(indices, x):
            np.testing.assert_array_equal(image[0], images[index].astype(np.float32) / 255)


@pytest.mark.parametrize("pixels, counts", [(2 * 16 * 24, [2, 2, 2, 1]), (100, [1] * 7)])
def test_test_batches_of_large_images_are_smaller(tmp_path, monkeypatch, pixels, counts):
    sizes = [(16, 24), (9, 10), (16, 24), (24, 16), (16, 24), (9, 10), (16, 24)]
    write(tmp_path / "SET", sizes, "test")
    split = load_split(tmp_path, "SET", "test")
    monkeypatch.setattr(datasets, "BATCH_PIXELS", pixels)
    assert [len(x) for _, x in datasets.test_batches(split, 3)] == counts
    assert datasets.num_test_batches(split, 3) == len(counts)
