import xml.etree.ElementTree as ET

from medseg.report.charts import Dot, curves, interval, strips


def parse(svg):
    return ET.fromstring(svg)  # noqa: S314 -- our own text


def test_every_value_is_a_dot_and_what_lies_past_the_axis_an_arrow():
    dots = [Dot("a", 2.0), Dot("b", 3.0), Dot("c", 4.0), Dot("d", 2.5), Dot("e", 300.0, bad=True)]
    svg = parse(strips({"disc": dots}, unit="mm"))
    assert len(svg.findall("circle")) == 4
    assert [path.get("class") for path in svg.findall("path")] == ["dot bad"]
    assert svg.find("path/title").text == "e: 300"


def test_names_are_escaped():
    text = strips({"<b>&": [Dot("<script>", 0.5)]}, unit="", top=1.0)
    assert "<script>" not in text
    assert parse(text).findall("circle/title")[0].text == "<script>: 0.5"


def test_curves_reach_from_the_first_to_the_last_epoch():
    svg = parse(curves({"train": [(0, 1.0), (9, 0.2)], "val": [(3, 0.7)]}, "Loss"))
    points = [line.get("points").split() for line in svg.findall("polyline")]
    assert [len(p) for p in points] == [2, 1]
    assert curves({}, "Loss") == ""


def test_degenerate_ranges_are_drawn():
    for dots in ([Dot("a", 0.0)], [Dot("a", 0.0), Dot("b", 0.0)], [Dot("a", 5.0, bad=True)], []):
        parse(strips({"disc": dots}, unit="mm"))
    parse(strips({"disc": [Dot("a", -3.0), Dot("b", 2.0)]}, unit="ml"))
    parse(interval(0.5, low=None, high=None))
    parse(curves({"a": [(4, 2.0)]}, "One epoch"))
