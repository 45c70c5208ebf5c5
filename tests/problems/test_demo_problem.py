"""Problems: the answer follows from the facts, and the pair says the same in both views."""

import pytest

from trl_modality.problems.demo.problem import DemoProblem
from trl_modality.views import validate_pair


FACTS = (("mon", 3), ("tue", 7), ("wed", 0), ("thu", 7))


@pytest.mark.parametrize(
    ("kind", "names", "question", "completion"),
    [
        ("look_up", ("wed",), "wed?", "wed=0;0"),
        ("sum", ("mon", "thu"), "mon+thu?", "mon=3,thu=7;10"),
        ("difference", ("mon", "tue"), "mon to tue?", "mon=3,tue=7;4"),
        ("difference", ("tue", "mon"), "tue to mon?", "tue=7,mon=3;4"),
        ("largest", (), "largest?", "mon=3,tue=7,wed=0,thu=7;7"),
        ("smallest", (), "smallest?", "mon=3,tue=7,wed=0,thu=7;0"),
    ],
)
def test_pair_of_each_kind(kind, names, question, completion):
    image = object()
    pair = DemoProblem("a", "Wind, m/s", FACTS, kind, names).to_pair(image)
    assert pair == {
        "id": "a",
        "images": [image],
        "text_rich_prompt": [{"role": "user", "content": f"Wind, m/s\nmon=3,tue=7,wed=0,thu=7\n{question}"}],
        "vision_centric_prompt": [{"role": "user", "content": f"Wind, m/s\n{question}"}],
        "completion": [{"role": "assistant", "content": completion}],
        "answer": completion.rsplit(";", 1)[1],
    }


def test_pair_is_valid():
    from PIL import Image

    validate_pair(DemoProblem("a", "Wind, m/s", FACTS, "largest").to_pair(Image.new("RGB", (4, 4))))


@pytest.mark.parametrize(
    ("facts", "kind", "names", "message"),
    [
        (FACTS, "median", (), "kind"),
        (FACTS, "sum", ("mon",), "needs 2"),
        (FACTS, "look_up", ("fri",), "fri"),
        ((), "largest", (), "non-empty"),
        ((("mon", 1), ("mon", 2)), "largest", (), "once"),
    ],
)
def test_contradictions_are_refused(facts, kind, names, message):
    with pytest.raises(ValueError, match=message):
        DemoProblem("a", "Wind, m/s", facts, kind, names)
