"""Pictures with questions become pairs: what is asked, what stays, what falls out, and that nothing is asked twice."""

import pytest
from datasets import Dataset, Features, Image, Value

from tests.testing.answering import FakeGenerator
from tests.testing.tiny import picture
from trl_modality.evaluation.grading.grader import Grader
from trl_modality.evaluation.models.requests import Generation
from trl_modality.from_models import OcrGenerator, flags, transcribe
from trl_modality.from_models.asked import known_answers, write_answers
from trl_modality.from_models.transcribe import NOT_AGREED, NOT_ANSWERED
from trl_modality.views import PairError, text_of, validate_pair


FEATURES = Features({name: Value("string") for name in ("id", "title", "question", "answer")} | {"image": Image()})


def rows(count=6, pictures=3):
    """Row i is about picture i modulo `pictures`, whose size tells its number."""
    made = [
        {
            "id": f"q{i}",
            "title": f"Shop {i % pictures}",
            "question": f"How many on day {i}?",
            "answer": str(10 + i),
            "image": picture(i % pictures, 16 + i % pictures),
        }
        for i in range(count)
    ]
    return Dataset.from_list(made, features=FEATURES)


def number_of(request):
    return request.images[0].size[0] - 16


def reader(words="picture {}", name="reader"):
    return FakeGenerator(lambda request: words.format(number_of(request)), name)


class Answerer(FakeGenerator):
    """Answers rightly where the day is even."""

    def __init__(self):
        super().__init__(self.say, "answerer")

    def say(self, request):
        assert not request.images
        day = int(text_of(request.prompt).removesuffix("?").split()[-1])
        return f"Answer: {10 + day}" if day % 2 == 0 else "Answer: 0"


def test_rows_become_pairs():
    generator = reader()
    made = transcribe({"train": rows(), "test": rows(2)}, generator, show_progress=False)
    first = made.splits["train"][4]
    assert text_of(first["text_rich_prompt"]) == "picture 1\n\nHow many on day 4?"
    assert text_of(first["vision_centric_prompt"]) == "How many on day 4?"
    assert (first["id"], first["answer"], first["image"].size) == ("q4", "14", (17, 17))
    assert len(made.splits["train"]) == 6
    assert len(made.splits["test"]) == 2
    validate_pair(first, needs_completion=False)
    # Eight rows, three pictures; the model has not seen a question
    asked = [request for batch in generator.batches for request in batch]
    assert sorted(map(number_of, asked)) == [0, 1, 2]
    assert all("day" not in text_of(request.prompt) for request in asked)
    assert made.lines()[0] == "8 of 8 rows are pairs now, from 3 transcriptions"


def test_prompt_and_template_name_columns():
    generator = reader()
    made = transcribe(
        {"train": rows(3)},
        generator,
        prompt="{title}: list {{all}}",
        template="{title}\n{facts}\n{question}",
        show_progress=False,
    )
    assert text_of(generator.batches[0][1].prompt) == "Shop 1: list {all}"
    assert text_of(made.splits["train"][1]["text_rich_prompt"]) == "Shop 1\npicture 1\nHow many on day 1?"
    with pytest.raises(ValueError, match=r"`template` names \{titel\}, and rows of 'train' have answer, facts, id"):
        transcribe({"train": rows()}, generator, template="{titel} {facts}")
    with pytest.raises(ValueError, match=r"`template` must hold \{facts\}"):
        transcribe({"train": rows()}, generator, template="{question}")
    empty = rows(3).map(lambda row: {"title": None if row["id"] != "q1" else "Shop"})
    with pytest.raises(PairError, match=r"`train` row 0, id='q0': `title` is empty, and is to be written"):
        transcribe({"train": empty}, generator, prompt="{title}: list all")
    with pytest.raises(ValueError, match="`prompt` is no template"):
        transcribe({"train": rows()}, generator, prompt="list {")


def test_answers_may_be_numbers():
    numbers = rows().cast_column("answer", Value("int64"))
    made = transcribe(
        {"train": numbers}, reader(), keep="answered", answerer=Answerer(), grade=Grader(), show_progress=False
    )
    assert made.splits["train"]["answer"] == [10, 12, 14]
    several = [{**row, "answer": [row["answer"]]} for row in rows(1)]
    with pytest.raises(PairError, match=r"`answer` is \['10'\], which is no answer"):
        transcribe({"train": Dataset.from_list(several)}, reader(), show_progress=False)


def test_rows_that_cannot_be_answered_from_the_words_fall_out():
    made = transcribe(
        {"train": rows()}, reader(), keep="answered", answerer=Answerer(), grade=Grader(), show_progress=False
    )
    assert made.splits["train"]["id"] == ["q0", "q2", "q4"]
    assert made.fell_out == {NOT_ANSWERED: 3}
    assert f"3 left out: {NOT_ANSWERED}" in made.lines()


def test_rows_on_which_a_second_transcription_does_not_agree_fall_out():
    second = FakeGenerator(lambda request: "picture 1", "second")
    made = transcribe({"train": rows()}, reader(), keep="agreed", second=second, show_progress=False)
    assert made.splits["train"]["id"] == ["q1", "q4"]
    assert made.fell_out == {NOT_AGREED: 4}
    assert {request.seed for batch in second.batches for request in batch} == {1}


def test_what_is_of_no_use_falls_out_with_its_reason():
    class Server(FakeGenerator):
        def __call__(self, requests):
            refused = Generation("", False, failure="it is filtered")
            return [
                refused if number_of(r) == 0 else g for r, g in zip(requests, super().__call__(requests), strict=True)
            ]

    texts = {1: "", 2: "shop 2 ...", 3: "三 月 四 日", 4: "the answer is 14", 5: "good"}
    generator = Server(lambda request: texts.get(number_of(request), ""))
    made = transcribe({"train": rows(6, pictures=6)}, generator, show_progress=False)
    assert made.splits["train"]["id"] == ["q5"]
    assert made.fell_out == dict.fromkeys(flags.REASONS, 1)
    with pytest.raises(ValueError, match=r"no row of split 'train' is left of 3: 3 empty"):
        transcribe({"train": rows(3)}, FakeGenerator(lambda request: " "), show_progress=False)


def test_known_answers_are_not_asked_again(tmp_path):
    first = transcribe({"train": rows(4, pictures=4)}, reader(), show_progress=False)
    write_answers(first.answers["transcripts"], tmp_path / "transcripts.jsonl")
    generator = reader()
    made = transcribe(
        {"train": rows(6, pictures=6)},
        generator,
        known=known_answers([tmp_path / "transcripts.jsonl"]),
        show_progress=False,
    )
    assert [number_of(request) for batch in generator.batches for request in batch] == [4, 5]
    assert len(made.splits["train"]) == 6
    # Another model has said nothing yet
    other = reader(name="other")
    known = known_answers([tmp_path / "transcripts.jsonl"])
    transcribe({"train": rows(2)}, other, known=known, show_progress=False)
    assert len(other.batches[0]) == 2


def test_ocr_answers_by_its_pictures_alone():
    class Reader:
        settings = {"ocr": "fake"}

        def read(self, image):
            return f"picture {image.size[0] - 16}"

    made = [
        transcribe({"train": rows()}, OcrGenerator(Reader()), prompt=prompt, show_progress=False)
        for prompt in ("list", "other")
    ]
    assert text_of(made[0].splits["train"][4]["text_rich_prompt"]) == "picture 1\n\nHow many on day 4?"
    assert list(made[0].answers["transcripts"]) == list(made[1].answers["transcripts"])
    # It cannot tell an answer that does not stand in the picture
    Reader.read = lambda self, image: "14"
    assert not transcribe({"train": rows()}, OcrGenerator(Reader()), show_progress=False).fell_out


def test_a_picture_that_ocr_fails_on_falls_out():
    class Reader:
        settings = {"ocr": "fake"}

        def read(self, image):
            if image.size[0] == 17:
                raise RuntimeError("too thin")
            return "some words"

    made = transcribe({"train": rows(3)}, OcrGenerator(Reader()), show_progress=False)
    assert made.splits["train"]["id"] == ["q0", "q2"]
    assert made.fell_out == {flags.FAILED: 1}
    assert any("RuntimeError: too thin" in (said.failure or "") for said in made.answers["transcripts"].values())


def test_bad_rows_and_options_are_named():
    with pytest.raises(ValueError, match=r"split 'train' has no column with a question .* it has id, title, answer"):
        transcribe({"train": rows().remove_columns("question")}, reader())
    with pytest.raises(ValueError, match=r"has no column with a picture"):
        transcribe({"train": rows().remove_columns("image")}, reader())
    empty = rows().map(lambda row: {"question": "" if row["id"] == "q2" else row["question"]})
    with pytest.raises(PairError, match=r"`train` row 2, id='q2': `question` is empty"):
        transcribe({"train": empty}, reader())
    slot = rows().map(lambda row: {"question": "<image>\n" + row["question"]})
    with pytest.raises(PairError, match=r"is a string with '<image>' in it"):
        transcribe({"train": slot}, reader())
    without = rows().map(lambda row: {"answer": None if row["id"] == "q1" else row["answer"]})
    with pytest.raises(PairError, match=r"row 1, id='q1': it has no `answer`"):
        transcribe({"train": without}, reader(), keep="answered", answerer=Answerer(), grade=Grader())
    with pytest.raises(ValueError, match="needs an `answerer`"):
        transcribe({"train": rows()}, reader(), keep="answered")
    with pytest.raises(ValueError, match="needs `second`"):
        transcribe({"train": rows()}, reader(), keep="agreed")
