"""Geometry3K and PGPS9K in their official layouts, and their logic forms and clauses in words."""

import json

import pytest
from PIL import Image

from trl_modality.data.loaders import load_geometry3k, load_pgps9k
from trl_modality.data.loaders.logic_forms import Form, forms_in_words, parse
from trl_modality.data.loaders.pgps9k import clauses_in_words


@pytest.mark.parametrize(
    ("forms", "words"),
    [
        (["Equals(LengthOf(Line(A,B)),5)"], "AB = 5."),
        (["Equals(LengthOf(Line(T, R)), x+21)"], "TR = x+21."),
        (["Equals(LengthOf(Line(M, L)), LengthOf(w))"], "ML = w."),
        (["Equals(MeasureOf(Angle(A, C, B)), 54)"], "angle ACB = 54."),
        (["Equals(MeasureOf(Angle(F, E, I)), MeasureOf(angle 4))"], "angle FEI = angle 4."),
        (["Equals(MeasureOf(Arc(B, D)), 10x)"], "arc BD = 10x."),
        (["Equals(LengthOf(Arc(X, N)), x)"], "the length of arc XN = x."),
        (["Perpendicular(Line(A, C), Line(D, C))"], "AC is perpendicular to DC."),
        (["Parallel(Line(W, X), Line(Z, Y))"], "WX is parallel to ZY."),
        (["Equals(AreaOf(Quadrilateral(E,F,G,H)), 27)"], "the area of quadrilateral EFGH = 27."),
        (["Equals(LengthOf(HeightOf(Triangle(A,B,C))), x)"], "the height of triangle ABC = x."),
        (["Equals(LengthOf(PerimeterOf(Cirle(C))), 12)"], "the perimeter of circle C = 12."),
        (["Equals(MeasureOf(Major(Arc(A,D,C))),y)"], "major arc ADC = y."),
        (["Tangent(Line(A,B), Circle(G))"], "AB is tangent to circle G."),
        (["IsMidpointOf(Point(V),LegOf(Trapezoid(Q,R,T,U)))"], "V is the midpoint of the leg of trapezoid QRTU."),
        (["IsPerpendicularBisectorOf(Line(A,B),Line(C,D))"], "AB is the perpendicular bisector of CD."),
        (["Equals(LengthOf(Line(P,M)),Mul(Line(K,P),2))"], "PM = KP * 2."),
        (["IntersectAt(Line(A,B),Line(C,D),Point(E))"], "AB, CD and E meet."),
        (["Equals(LengthOf(Line(A,B)),\\frac{10}{3}x+4)"], "AB = \\frac{10}{3}x+4."),
        (["SumOf(x,\\frac{1}{2},y)"], "the sum of x, \\frac{1}{2} and y."),
        (["Shines(Point(A),Line(B,C))"], "shines A and BC."),
        (["", "Equals(LengthOf(Line(A,B)),5)", "Equals(LengthOf(Line(A,B)),5)"], "AB = 5."),
        (["Perpendicular(Line(point_3, A), Line(A, B))"], ""),
    ],
)  # fmt: skip
def test_logic_forms_in_words(forms, words):
    assert forms_in_words(forms) == words


def test_points_on_one_line_or_circle_are_gathered():
    forms = [
        "PointLiesOnLine(N, Line(X, Z))",
        "PointLiesOnCircle(Z, Circle(X, radius_0_0))",
        "Perpendicular(Line(Y, M), Line(M, A))",
        "PointLiesOnCircle(A, Circle(X, radius_0_0))",
        "PointLiesOnCircle(Z, Circle(X, radius_0_0))",
    ]
    assert forms_in_words(forms) == "YM is perpendicular to MA. N lies on line XZ. Z, A lie on circle X."


def test_forms_with_wrong_brackets_are_read_on():
    line = Form("Line", (Form("Z"), Form("I")))
    assert parse("PointLiesOnLine(Y, Line(Z, I)) K))") == Form("PointLiesOnLine", (Form("Y"), line))
    assert forms_in_words(["Equals(MeasureOf(Angle(H, E, F)), x-1))"]) == "angle HEF = x-1."
    assert forms_in_words(["Parallel(Line(A,B),Line(C,D)"]) == "AB is parallel to CD."
    assert parse("") == Form("")


def test_clauses_in_words():
    structure = ["line A B", "line C D", "line A D C", "\\odot O lieson A B C", "line m lieson A E"]
    semantics = ["AB = 5", "DC \\perp AB on D", "m \\angle ABC = 30", "m \\widehat AB = 2x", "AB \\parallel CD", ""]
    assert clauses_in_words(structure, semantics) == (
        "There are the lines AB, CD. On one line lie, in this order, A, D, C. On circle O lie A, B, C. "
        "On line m lie A, E. AB = 5. DC is perpendicular to AB at D. angle ABC = 30. arc AB = 2x. "
        "AB is parallel to CD."
    )


DATA = {
    "problem_text": "In \\odot X, A B = 30. Find m \\widehat A B.",
    "compact_text": "In \\odot X, AB = 30. Find m \\widehat AB.",
    "choices": ["30", "40", "60", "80"],
    "compact_choices": ["30", "40", "60", "80"],
    "answer": "D",
    "problem_type_graph": ["Circle"],
    "id": 11,
}
FORMS = {"diagram_logic_form": ["Equals(LengthOf(Line(C, D)), 30)"], "text_logic_form": ["Circle(X)"]}


def write_geometry3k(folder, key="11", data=DATA):
    place = folder / "train" / key
    place.mkdir(parents=True)
    (place / "data.json").write_text(json.dumps(data))
    (place / "logic_form.json").write_text(json.dumps(FORMS))
    Image.new("RGB", (25, 20)).save(place / "img_diagram.png")


def test_geometry3k(tmp_path):
    for key in ("11", "2"):
        write_geometry3k(tmp_path, key)
    pairs = load_geometry3k(tmp_path, "train")
    assert pairs["id"] == ["geometry3k-2", "geometry3k-11"]
    row = pairs[0]
    question = "In \\odot X, AB = 30. Find m \\widehat AB.\nOptions: (A) 30 (B) 40 (C) 60 (D) 80"
    assert row["vision_centric_prompt"][0]["content"] == question
    assert row["text_rich_prompt"][0]["content"] == f"CD = 30.\n{question}"
    assert (row["completion"][0]["content"], row["answer"], row["category"]) == ("Answer: 80", "80", "Circle")
    assert row["choices"] == ["30", "40", "60", "80"]
    assert row["images"][0].size == (25, 20)


def test_geometry3k_names_what_is_missing(tmp_path):
    write_geometry3k(tmp_path, data={**DATA, "answer": "E"})
    with pytest.raises(ValueError, match="problem '11' of Geometry3K has the answer 'E', which is none of its 4"):
        load_geometry3k(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"val.*data.json. Geometry3K is laid out as .*lupantech/InterGPS"):
        load_geometry3k(tmp_path, "val")
    (tmp_path / "train" / "11" / "logic_form.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"logic_form.json. Geometry3K is laid out as"):
        load_geometry3k(tmp_path)


@pytest.fixture
def pgps9k(tmp_path):
    problem = {
        "diagram": "img_7.png",
        "text": "Find m \\angle ABC.",
        "parsing_stru_seqs": ["line A B C"],
        "parsing_sem_seqs": ["AB = 5"],
        "expression": "Get N0",
        "answer": "25.000",
        "choices": [25.0, 30.5, 40.0, 80.0],
        "type": "Angle ",
    }
    for folder in ("PGPS9K", "Geometry3K", "Diagram_Visual"):
        (tmp_path / folder).mkdir()
    for part in ("PGPS9K", "Geometry3K"):
        (tmp_path / part / "test.json").write_text(json.dumps({"prob_3": problem}))
    Image.new("L", (9, 9)).save(tmp_path / "Diagram_Visual" / "img_7.png")
    return tmp_path


def test_pgps9k(pgps9k):
    (row,) = load_pgps9k(pgps9k, "test")
    question = "Find m \\angle ABC.\nOptions: (A) 25 (B) 30.5 (C) 40 (D) 80"
    assert row["vision_centric_prompt"][0]["content"] == question
    facts = "On one line lie, in this order, A, B, C. AB = 5."
    assert row["text_rich_prompt"][0]["content"] == f"{facts}\n{question}"
    assert (row["id"], row["answer"], row["category"]) == ("pgps9k-prob_3", "25", "Angle")
    assert row["completion"][0]["content"] == "Answer: 25"
    assert row["choices"] == ["25", "30.5", "40", "80"]
    assert load_pgps9k(pgps9k, "test", part="Geometry3K")["id"] == ["geometry3k-prob_3"]


def test_pgps9k_names_what_is_missing(pgps9k):
    with pytest.raises(FileNotFoundError, match=r"train.json. PGPS9K is laid out as .*mingliangzhang2018/PGPS"):
        load_pgps9k(pgps9k)
    with pytest.raises(FileNotFoundError, match=r"Diagram.img_7.png. PGPS9K is laid out as"):
        load_pgps9k(pgps9k, "test", diagrams="Diagram")
    with pytest.raises(ValueError, match="`part` must be one of PGPS9K, Geometry3K, got 'GeoQA'"):
        load_pgps9k(pgps9k, part="GeoQA")
