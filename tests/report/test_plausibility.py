from medseg.report.plausibility import plausibility


def row(case, structure, status="ok", **faults):
    found = {"components": 1, "holes": 0, "self_intersections": 0}
    return {"case": case, "structure": structure, "status": status, **found, **faults}


def test_cases_are_counted_and_their_faults_told():
    rows = [
        row("a", "lungs", components=2),
        row("a", "right_lung"),
        row("a", "heart"),
        row("b", "right_lung", components=2, holes=1),
        row("c", "heart", self_intersections=3),
        row("d", "heart", status="failed"),
        row("e", "heart", self_intersections=None),
        row("e", "lungs_heart", components=None, holes=None),
    ]
    found = plausibility(rows, ["right_lung", "lungs_heart"])
    assert (found["plausible"], found["cases"]) == (2, 4)
    assert found["implausible"] == ["b", "c"]
    assert found["text"] == (
        "2/4 cases: every organ one piece, no hole, no crossing; 1 with an organ in several "
        "pieces, 1 with a hole, 1 with a contour that crosses itself, 1 without a prediction"
    )


def test_a_mask_of_both_lungs_may_be_two_pieces():
    assert plausibility([row("a", "lungs", components=2)], [])["plausible"] == 1
    assert plausibility([row("a", "lungs", components=3)], [])["plausible"] == 0
