from medseg.report.leaks import Case, leaks, trained_on


def case(name, split, *, subject="", slices=None, volumes=("v",)):
    return Case(name, subject, split, slices, volumes)


def test_slices_that_do_not_overlap_are_a_declared_leak():
    found = leaks([case("a", "train", slices=(0, 3)), case("b", "test", slices=(3, 5))])
    assert [(leak["declared"], leak["kind"]) for leak in found] == [(True, "volume")]


def test_overlapping_slices_and_whole_volumes_are_not_declared():
    part = case("b", "test", slices=(3, 5))
    assert not leaks([case("a", "train", slices=(0, 4)), part])[0]["declared"]
    assert not leaks([case("a", "train"), part])[0]["declared"]


def test_one_leak_is_told_once():
    rows = [case("a", "train", subject="p"), case("b", "test", subject="p")]
    assert len(leaks(rows)) == 1


def test_a_subject_in_one_split_is_no_leak():
    rows = [
        case("a", "test", subject="p", volumes=("v",)),
        case("b", "test", subject="p", volumes=("w",)),
        case("c", "", subject="p", volumes=("x",)),
    ]
    assert leaks(rows) == []


def test_scored_cases_in_the_training_list_are_a_leak():
    assert trained_on(["a", "b"], {"cases": {"train": ["b"]}})[0]["cases"] == ["b"]
    assert trained_on(["a"], {"cases": {"train": ["b"]}}) == trained_on(["a"], {}) == []
