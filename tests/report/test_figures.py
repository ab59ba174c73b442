import re
import xml.etree.ElementTree as ET

import pytest

from stockpot.evaluation.evidence import DEFAULTS
from stockpot.evaluation.metrics import METRICS
from stockpot.evaluation.wording import points
from stockpot.recycling.schema import RecycleResults
from stockpot.report import curves, scatter, tree, whiskers

read = RecycleResults.read


SPACE = re.compile(r"^[\d.-]+$")


def positions(drawn, css):
    root = ET.fromstring(drawn)
    return [each for each in root.iter() if each.attrib.get("class", "").startswith(css)]


def test_each_row_has_a_whisker_in_each_panel(results):
    drawn = whiskers.wide(read(results))
    rows, panels = len(results["table"]), 6
    outside = drawn.count('class="tick halo"')
    assert len(positions(drawn, "whisker")) + outside == rows * panels - 1
    assert "the baseline" in drawn


def test_a_row_far_below_does_not_squeeze_the_others(results):
    """The linear probe is drawn at the edge, with its value, by an arrow."""
    low, _ = whiskers._range(read(results).table)
    probe = next(row for row in results["table"] if row["protocol"] == "linear_probe")
    assert low > probe["mean"]


def test_whiskers_lie_inside_the_drawing(results):
    for drawn in (whiskers.wide(read(results)), *whiskers.narrow(read(results))[1]):
        root = ET.fromstring(drawn)
        width = float(root.attrib["viewBox"].split()[2])
        for line in positions(drawn, "whisker"):
            assert 0 <= float(line.attrib["x1"]) <= float(line.attrib["x2"]) <= width


def test_many_domains_are_left_to_the_table(results):
    for row in results["table"]:
        row["domains"] = {f"d{i}": row["domains"]["tweets"] for i in range(9)}
    assert "d3" not in whiskers.wide(read(results))


def test_curves_name_the_largest_barrier(results):
    rows = curves.panels(read(results))
    assert [len(figures) for _, figures in rows] == [4, 4]
    tweets = rows[0][1][0]
    worst = max(
        curve["barrier_ood"]
        for cell in results["cells"]
        if cell["held_out"] == "tweets"
        for curve in cell["connectivity"]
    )
    assert f"barrier {100 * worst:.1f} points" in tweets
    assert len(positions(tweets, "barrier")) == 2
    assert len(positions(rows[0][1][1], "barrier")) == 0


def test_curve_kinds_are_counted(results):
    kinds = {row.kind: row for row in curves.kinds(read(results))}
    assert kinds["same init"].pairs == 8
    assert kinds["different init"].id > 0.15 > kinds["same init"].id


def test_labels_of_the_scatter_do_not_overlap(results):
    drawn = scatter.diversity(read(results), "d", 700, 340)
    boxes = []
    for note in positions(drawn, "note"):
        wide = 6.2 * len(note.text)
        x = float(note.attrib["x"]) - (wide if note.attrib.get("text-anchor") == "end" else 0)
        boxes.append((x, float(note.attrib["y"]), x + wide))
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert abs(one[1] - other[1]) > 8 or one[2] < other[0] or other[2] < one[0]


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_what_is_worth_averaging_has_the_unit_of_the_axis(results, metric):
    results["task"]["metric"] = metric.name
    drawn = scatter.diversity(read(results), "d", 1000, 340)
    (needed,) = [note.text for note in positions(drawn, "note") if "or more" in note.text]
    gain = points(DEFAULTS.ensemble_gain, metric=metric.name)
    assert needed == f"worth averaging: {gain.removesuffix('.0')} {metric.unit} or more"
    assert f"gain over the mean member, in {metric.unit}" in drawn


def test_every_run_is_a_dot(results):
    total = sum(drawn.count('class="dot') for drawn in scatter.runs(read(results)))
    assert total == sum(len(cell["runs"]) for cell in results["cells"])


def test_tree_layers_follow_the_longest_way(results):
    nodes, edges = tree._read(results["lineage"])
    depth = tree.depths(nodes, edges)
    assert depth["base"] == 0
    assert depth["reviews"] == 1
    assert depth["run 0"] == 2
    assert depth["final"] == 3


def test_tree_boxes_do_not_overlap(results):
    root = ET.fromstring(tree.family_tree(results["lineage"], "t", 1000))
    boxes = [
        tuple(float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
        for rect in root.iter("rect")
    ]
    assert len(boxes) == len(results["lineage"]["nodes"])
    for index, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[index + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_a_crowded_column_is_gathered_and_keeps_its_weight():
    """60 runs from 2 inits become 2 boxes; their shares add up."""
    nodes = [{"id": n, "label": n, "kind": k} for n, k in (("b", "base"), ("a", "auxiliary"))]
    nodes += [{"id": f"r{i}", "label": f"r{i}", "kind": "run"} for i in range(60)]
    nodes.append({"id": "f", "label": "f", "kind": "final"})
    edges = [{"from": "b", "to": "a", "role": "init", "weight": None}]
    for i in range(60):
        edges.append({"from": "ab"[i % 2], "to": f"r{i}", "role": "init", "weight": None})
        edges.append({"from": f"r{i}", "to": "f", "role": "member", "weight": 1 / 60})
    drawn = tree.family_tree({"nodes": nodes, "edges": edges}, "t", 1000)
    assert drawn.count("30 runs") >= 2
    assert "weight 0.5" in drawn


def test_a_broken_lineage_still_draws():
    """Edges to nobody are left out; a cycle does not hang."""
    nodes = [{"id": n, "label": n, "kind": "run"} for n in "xy"]
    edges = [
        {"from": "x", "to": "y", "role": "init"},
        {"from": "y", "to": "x", "role": "init"},
        {"from": "nobody", "to": "x", "role": "init"},
    ]
    assert "<svg" in tree.family_tree({"nodes": nodes, "edges": edges}, "t", 500)
    assert tree.family_tree({}, "t", 500) == ""
