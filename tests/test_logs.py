"""The log format: written exactly, read from any source."""

from __future__ import annotations

import math
import os
import time

import pytest

from utils.errors import UserError
from utils.recipe import Recipe
from utils.training.logs import (
    METRICS,
    EpochRecord,
    best_epochs,
    join_logs,
    log_started,
    log_time,
    parse_log_name,
    read_log,
    render_log,
    write_log,
)

MODELS = ["L2SKNet_UNet", "L2SKNet_FPN", "L2SKNet_1D_UNet", "L2SKNet_1D_FPN"]
HISTORY = [
    EpochRecord(
        1, 0.998524, "Aug  2 04:31:35", 0.971711, 0.018736, 0.795767, 3.753779e-2, 0.030127
    ),
    EpochRecord(2, 0.9, "Aug  2 04:32:01"),
    EpochRecord(3, 0.054183, "Aug 12 04:43:29", 0.942292, 0.906315, 0.971429, 5.91e-6, 0.950567),
    EpochRecord(4, 0.05, "Aug 12 05:00:00", 0.9, 0.906315, 0.97, 5.92e-6, 0.96),
]
TEXT = """\
Aug  2 04:31:35 Epoch---1, total_loss---0.998524,
pixAcc 0.971711, mIoU: 0.018736
Pd: 0.795767, Fa: 0.03753779, fscore: 0.030127
Best mIoU: 0.018736,when Epoch=1, Best fscore: 0.030127,when Epoch=1
Best Pd: 0.795767,when Epoch=1, Best Fa: 0.03753779,when Epoch=1
Aug  2 04:32:01 Epoch---2, total_loss---0.900000,
Aug 12 04:43:29 Epoch---3, total_loss---0.054183,
pixAcc 0.942292, mIoU: 0.906315
Pd: 0.971429, Fa: 0.00000591, fscore: 0.950567
Best mIoU: 0.906315,when Epoch=3, Best fscore: 0.950567,when Epoch=3
Best Pd: 0.971429,when Epoch=3, Best Fa: 0.00000591,when Epoch=3
Aug 12 05:00:00 Epoch---4, total_loss---0.050000,
pixAcc 0.900000, mIoU: 0.906315
Pd: 0.970000, Fa: 0.00000592, fscore: 0.960000
Best mIoU: 0.906315,when Epoch=3, Best fscore: 0.960000,when Epoch=4
Best Pd: 0.971429,when Epoch=3, Best Fa: 0.00000591,when Epoch=3
"""


@pytest.fixture
def read(tmp_path):
    """Reads a text as a log, its lines ended as they are."""

    def read_text(text: str) -> list[EpochRecord]:
        path = tmp_path / "log.txt"
        path.write_bytes(text.encode())
        return read_log(path)

    return read_text


def losses(records):
    return {record.epoch: record.loss for record in records}


def test_log_is_written_to_the_letter_and_read_back(tmp_path):
    assert render_log(HISTORY) == TEXT
    for count in range(len(HISTORY)):  # it grows by appending only
        assert TEXT.startswith(render_log(HISTORY[:count]))
    head = Recipe(epochs=60, augment=True).describe()  # which is not read as an epoch
    assert head == ("60 epochs, batch size 8, learning rate 0.001 (x0.1 after 30 and 45), seed 42, "
                    "image size 256, augmented")
    path = tmp_path / "log" / "run.txt"
    write_log(path, HISTORY, head)
    assert path.read_bytes() == f"{head}\n{TEXT}".encode() and [*path.parent.iterdir()] == [path]
    assert read_log(path) == HISTORY


def test_date_is_english_with_a_padded_day(monkeypatch):
    moment = time.mktime((2024, 8, 2, 4, 31, 35, 0, 0, -1))
    monkeypatch.setattr(time, "strftime", lambda *_: pytest.fail("strftime knows the locale"))
    assert log_time(moment) == "Aug  2 04:31:35"


def test_best_is_the_lowest_fa_the_earlier_of_equals_and_never_nan():
    nan = math.nan
    records = [
        EpochRecord(1, 1.0, "", 0.1, nan, 0.8, 3e-5, 0.2),
        EpochRecord(2, 1.0, "", 0.1, 0.0, 0.9, 1e-5, 0.3),
        EpochRecord(3, 1.0, "", 0.2, nan, nan, 1e-5, 0.3),
        EpochRecord(4, 1.0, "", 0.2, 0.5, 0.9, 2e-5, 0.1),
        EpochRecord(5, 1.0),
    ]
    best = {name: record.epoch for name, record in best_epochs(records).items()}
    assert best == {"pixAcc": 3, "mIoU": 4, "Pd": 2, "Fa": 2, "fscore": 2}
    assert best_epochs([EpochRecord(1, 1.0)]) == {}


def test_official_variants_are_read(read):
    records = read(
        "\ufeffNUDT-SIRST\tL2SKNet_UNet\r\n"
        "\r\n"
        "*********Aug  2 04:31:35 Epoch---1, total_loss---0.998524,,*********\r\n"
        "some library: a warning with 3 numbers, loss not among them\r\n"
        "pixAcc 0.971711, mIoU: 0.018736, nIoU: 0.500000\r\n"
        "Pd: 0.795767, Fa: 0.03753779, fscore: 0.030127\r\n"
        "Best mIoU: 0.777777,when Epoch=9, Best nIoU: 0.1,when Epoch=9, Best fscore: 0.8,when\r\n"
        "Best Pd: 0.777777,when Epoch=9, Best Fa: 0.00000001,when Epoch=9\r\n"
        "Aug  2 04:32:35 Epoch---2, total_loss---nan, lr---0.000500,\r\n"
        "Epoch: 3, loss: 1.5e-1\r\n"
        "[Epoch 4/400] train_loss = 0.25\r\n"
    )
    assert [(r.epoch, r.time) for r in records] == [
        (1, "Aug  2 04:31:35"),
        (2, "Aug  2 04:32:35"),
        (3, ""),
        (4, ""),
    ]
    assert [getattr(records[0], name) for name in METRICS] == [
        *(0.971711, 0.018736, 0.795767, 0.03753779, 0.030127)
    ]
    assert math.isnan(records[1].loss) and not records[1].evaluated
    assert (records[2].loss, records[3].loss) == (0.15, 0.25)


def test_a_log_cut_anywhere_gives_no_wrong_number(read):
    whole = {record.epoch: record for record in HISTORY}
    for length in range(TEXT.index(",") + 1, len(TEXT)):
        text = TEXT[:length]
        if "total_loss---0.998524" not in text:
            with pytest.raises(UserError, match="no epoch"):
                read(text)
            continue
        records = read(text)
        for record in records:
            for name in ("loss", *METRICS):
                value = getattr(record, name)
                assert value is None or value == getattr(whole[record.epoch], name), text[-60:]
        # Every epoch whose line was ended is there.
        assert len(records) >= text.count(",\n")


def test_half_a_line_in_the_middle_is_dropped(read):
    # The run was killed while it wrote, and the resumed one went on in the same file.
    records = read(
        "Aug  2 04:31:35 Epoch---1, total_loss---0.9000,\n"
        "Aug  2 04:32:35 Epoch---2, total_loss---0.1"
        "Aug  3 00:00:00 Epoch---3, total_loss---0.800000,\n"
        "pixAcc 0.9, mIoU: 0.4"
    )
    assert losses(records) == {1: 0.9, 3: 0.8}
    assert records[1].time == "Aug  3 00:00:00"
    assert records[1].mIoU is None


def test_an_epoch_that_appears_again_replaces_the_earlier(read):
    resumed = [EpochRecord(3, 0.5, "Aug 13 00:00:00"), EpochRecord(5, 0.4, "Aug 13 00:01:00")]
    records = read(TEXT + render_log(resumed))
    assert losses(records) == {1: 0.998524, 2: 0.9, 3: 0.5, 4: 0.05, 5: 0.4}
    assert not records[2].evaluated


def test_of_two_runs_in_one_log_the_newer_counts(read):
    assert losses(read(TEXT + render_log([EpochRecord(1, 0.7), EpochRecord(2, 0.6)]))) == {
        1: 0.7, 2: 0.6}


def test_an_epoch_that_its_line_calls_the_best_is_read(read):
    (record,) = read("Epoch 3 loss: 0.5 mIoU: 0.1 (best) mIoU: 0.9\n")
    assert (record.epoch, record.loss, record.mIoU) == (3, 0.5, 0.1)
    for line in ("Saved epoch 2, loss: 0.4 as best\n", "End: epoch 1, loss: 0.5 best\n"):
        assert read(TEXT + line) == read(TEXT)


def test_a_log_that_powershell_wrote_is_read(tmp_path):
    (tmp_path / "log.txt").write_text(TEXT.replace("\n", "\r\n"), "utf-16")
    (tmp_path / "plain.txt").write_text(TEXT)
    assert read_log(tmp_path / "log.txt") == read_log(tmp_path / "plain.txt")


def test_a_file_without_epochs_is_named(read, tmp_path):
    for text in ("", "Best mIoU: 0.1,when Epoch=1, loss: 0.2\n", "\0\xff\n"):
        with pytest.raises(UserError, match=r"log\.txt.*Epoch---1, total_loss---"):
            read(text)
    with pytest.raises(UserError, match="absent.txt"):
        read_log(tmp_path / "absent.txt")


def test_digits_without_end_are_no_epoch_and_cost_no_time(read):
    good = "Epoch---7, total_loss---0.500000,\n"
    began = time.monotonic()
    for strange in ("0" * 200_000 + "x", "Epoch---" + "9" * 5000 + ", total_loss---0.5"):
        assert [record.epoch for record in read(good + strange)] == [7]
    assert time.monotonic() - began < 20  # going back at each digit took minutes


def test_log_names():
    official = "NUDT-SIRST_L2SKNet_1D_UNet_Fri_Aug__2_04_31_35_2024.txt"
    assert parse_log_name(official, MODELS) == ("NUDT-SIRST", "L2SKNet_1D_UNet")
    assert parse_log_name("log/my_own-set_L2SKNet_FPN_20240802_043135.txt", MODELS) == (
        *("my_own-set", "L2SKNet_FPN"),
    )
    assert parse_log_name("L2SKNet_UNet.txt", MODELS) == ("", "L2SKNet_UNet")
    assert parse_log_name("NUDT-SIRST_DNANet_Fri.txt", MODELS) is None
    assert parse_log_name("NUDT-SIRST_L2SKNet_UNet2_Fri.txt", MODELS) is None


def test_logs_are_ordered_by_the_date_in_their_names(tmp_path):
    official = log_started("NUDT-SIRST_L2SKNet_UNet_Fri_Aug__2_04_31_35_2024.txt")
    assert log_started("NUDT-SIRST_L2SKNet_UNet_20240802_043135.txt") == official
    assert log_started("NUDT-SIRST_L2SKNet_UNet_2024-08-02_04-31-36.txt") == official + 1
    for name in ("unet.txt", "unet_20249902_043135.txt"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000, 1000))
        assert log_started(tmp_path / name) == 1000


def test_joining_continues_a_run_and_starts_anew_where_epochs_restart():
    def run(epochs, loss):
        return [EpochRecord(epoch, loss) for epoch in epochs]

    resumed, left_out = join_logs([run(range(1, 6), 0.9), run(range(4, 8), 0.5)])
    assert losses(resumed) == {1: 0.9, 2: 0.9, 3: 0.9, 4: 0.5, 5: 0.5, 6: 0.5, 7: 0.5}
    assert left_out == 0

    newest, left_out = join_logs([run(range(1, 6), 0.9), run([6], 0.8), run([1, 2], 0.7)])
    assert losses(newest) == {1: 0.7, 2: 0.7}
    assert left_out == 1


# As these projects write them, shortened; MSHNet logs an epoch where its IoU is a new best one.
PEERS = {
    "DNANet": (
        "30/07/2021 14:50:57 - 0000:\t - train_loss: 0.981250:\t - test_loss: 0.970000:\t"
        " mIoU 0.1234\n"
        "30/07/2021 14:52:57 - 0001:\t - train_loss: 0.5:\t - test_loss: 0.6:\t mIoU 0.4321\n",
        [(1, 0.98125, 0.1234, None, None), (2, 0.5, 0.4321, None, None)]),
    "DRPCA-Net": (
        "2025-03-13 16:45:39,704 Robust PCA Network INFO: Namespace(base_size=256, epochs=400)\n"
        + "".join(
            f"2025-03-13 16:46:0{n},000 Robust PCA Network INFO: Epoch-Iter: "
            f"[{epoch}/400]-[{n}0/83]"
            f" || Lr: 0.000100 || Loss: {loss}=0.9+0.4274 || Cost Time: 0:00:15 ||"
            " Estimated Time: 1 day, 14:31:14\n"
            + (f"2025-03-13 16:49:20,357 Robust PCA Network INFO: Data: nudt, mIoU: {n / 8}/0.9999,"
               " F1: 0.3/0.4 \n")
            for n, epoch, loss in ((1, 1, 0.8), (2, 1, 0.6), (3, 2, 0.5))),
        [(1, 0.7, 0.25, None, None), (2, 0.5, 0.375, None, None)]),
    "MSHNet": (
        "2024-04-21-22-02-40 - 0003\t - IoU 0.5123\t - PD 0.8123\t - FA 45.6000\n"
        "2024-04-21-23-02-40 - 0010\t - IoU 0.6000\t - PD 0.9000\t - FA 4.5000\n",
        [(4, math.nan, 0.5123, 0.8123, 45.6e-6), (11, math.nan, 0.6, 0.9, 4.5e-6)]),
}


@pytest.mark.parametrize("peer", PEERS)
def test_logs_of_other_projects_are_read(read, peer):
    text, expected = PEERS[peer]
    found = [(r.epoch, r.loss, r.mIoU, r.Pd, r.Fa) for r in read(text)]
    assert found == [tuple(pytest.approx(value, nan_ok=True) for value in row) for row in expected]
