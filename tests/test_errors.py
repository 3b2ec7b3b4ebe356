"""The words that count up what is wrong."""

from __future__ import annotations

import pytest

from utils.errors import listed


@pytest.mark.parametrize(
    ("number", "options", "text"),
    [
        (0, {}, ""),
        (5, {}, "0, 1, 2, 3, 4"),
        (6, {}, "0, 1, 2, 3, 4, and 1 more"),
        (9, {"shown": 2, "separator": "; "}, "0; 1; and 7 more"),
        (3, {"shown": 1, "kind": "files"}, "0, and 2 more files"),
    ],
)
def test_first_few_and_how_many_more(number, options, text):
    assert listed([str(index) for index in range(number)], **options) == text
