"""What evaluate takes for filled skies, and which columns of a reference tell of them."""

from pathlib import Path

import pytest

from medseg.data.sheet import Record
from medseg.data.skies import alone, fields_of, files, holds, maps_of


def record(case="a", **notes):
    return Record(case, "", "test", {}, notes=notes)


def test_a_map_and_a_mask_make_a_reference():
    assert holds(record(map="a.fits", mask="m.fits"))
    assert not holds(record(map="a.fits"))
    assert not holds(record(mask="m.fits", t1="a.nii"))
    assert alone([record(Q="a.fits", U="a.fits", mask="m.fits")])
    labelled = Record("a", "", "", {}, label=Path("l.fits"), notes={"map": "a", "mask": "m"})
    assert not alone([labelled])


def test_fields_are_those_that_the_predictions_name():
    whole = [record(T="a.fits", Q="a.fits", U="a.fits", mask="m.fits")]
    assert fields_of(whole, {}) == ("T", "Q", "U")
    assert fields_of(whole, {"a": {"fields": ["Q", "U"]}}) == ("Q", "U")
    inputs = {"T": {}, "mask": {}, "spectrum": {}}
    assert fields_of(whole, {"a": {"fields": ["sky"], "inputs": inputs}}) == ("T",)


def test_predictions_of_different_fields_do_not_mix():
    whole = [record(T="a.fits", Q="a.fits", U="a.fits", mask="m.fits")]
    with pytest.raises(ValueError, match=r"case a: Q, U; case b: T"):
        fields_of(whole, {"a": {"fields": ["Q", "U"]}, "b": {"fields": ["T"]}})


@pytest.mark.parametrize("notes", [{"map": "a.fits"}, {"mask": "m.fits"}, {}])
def test_a_reference_without_map_or_mask_is_refused_with_a_cure(notes):
    with pytest.raises(ValueError, match="columns `map`"):
        fields_of([record(**notes)], {"a": {"fields": ["map"]}})


def test_deviations_and_samples_are_no_cases():
    names = ("a", "a_deviation", "a_samples", "b_samples")
    paths = {name: Path(f"{name}.fits") for name in names}
    assert list(maps_of(paths)) == ["a", "b_samples"]


def test_masks_and_spectra_are_shared_without_a_leak():
    own = files(record(map="a.fits", mask="m.fits", spectrum="cl.fits", noise_uk="1"))
    assert own.notes == {"map": "a.fits", "noise_uk": "1"}
