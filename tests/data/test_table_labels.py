"""Named label values."""

import numpy as np
import pytest

from medseg.data.labels import classes, parse, remap, values_in


def test_the_class_index_is_the_place_of_the_name() -> None:
    target = np.array([[[0, 1, 255, 7]]])
    out = remap(target, {"b": [7], "a": [1, 255]}, where="case x")
    assert out.dtype == np.uint8
    assert out.tolist() == [[[0, 2, 2, 1]]]


def test_more_than_a_byte_of_classes_takes_two() -> None:
    named = {f"s{i}": [i] for i in range(1, 301)}
    out = remap(np.array([0, 300]), named, where="case x")
    assert out.dtype == np.uint16
    assert out.tolist() == [0, 300]


def test_stray_values_are_counted_and_a_cure_is_told() -> None:
    with pytest.raises(ValueError, match=r"case x holds the values 2, -3.*\[1,2\]|values -3, 2"):
        remap(np.array([2, -3, 1]), {"disc": [1]}, where="case x")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"a": [1], "b": [1]}, "value 1 is named twice"),
        ({"a": [0]}, "always background"),
        ({"a": []}, "names no value"),
        ({"a": [1.5]}, "must be an integer"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(labels: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        classes(labels)


def test_words_of_a_command_line_become_labels() -> None:
    assert parse(["disc=1,255", "cord=2"]) == {"disc": (1, 255), "cord": (2,)}
    for text in ("disc", "=1", "disc=a"):
        with pytest.raises(ValueError, match="write name=value"):
            parse([text])


def test_values_are_found_whatever_their_size() -> None:
    assert values_in(np.array([[3, 0], [3, 1]])) == [0, 1, 3]
    assert values_in(np.array([-2, 1 << 20])) == [-2, 1 << 20]
