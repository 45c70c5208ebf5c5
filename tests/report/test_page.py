"""The page: what is in it and what is not, hostile text, sizes, and the same bytes for the same runs."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from tests.testing.report_runs import (
    AFTER,
    BEFORE,
    MadeEvaluation,
    history,
    rich_run,
    rich_runs,
    write_json,
    write_record,
    write_state,
)
from trl_modality.evaluation.intervals import accuracy_of, paired_difference
from trl_modality.evaluation.text.results import TextRegret, TextResult, TextSkill
from trl_modality.report import card_section, read_run, write_report
from trl_modality.report.text import markdown_text


VOID = {"meta", "link", "img", "br", "hr", "input"}
SHAPES = {"polyline", "rect", "circle", "polygon"}


class Page(HTMLParser):
    """The elements of a page; fails where they are not nested."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text, self.ids = [], [], "", []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SHAPES
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title", "desc"):
            self.text += data

    @property
    def tags(self):
        return {tag for tag, _ in self.elements}

    @property
    def headings(self):
        return re.findall(r"<h2>([^<]*)</h2>", self.rawdata)


@pytest.fixture(autouse=True)
def without_pictures(request, monkeypatch):
    """PNG files take most of the time of a report: only tests that look at them get some."""
    if request.function not in (test_files_beside_the_page, test_the_same_runs_give_the_same_bytes):
        monkeypatch.setattr("trl_modality.report.write.find_spec", lambda name: None)


def written(runs, tmp_path, **options):
    files = write_report(runs, tmp_path / "page.html", **options)
    return files, Page(files.html.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """Three runs with everything, and the report on them."""
    folder = tmp_path_factory.mktemp("rich")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trl_modality.report.write.find_spec", lambda name: None)
        return written(rich_runs(folder), folder)


def sections_of(files):
    return re.findall(r'<section id="([^"]+)"', files.html.read_text())


def test_a_rich_report(rich):
    files, page = rich
    assert sections_of(files) == ["accuracy", "training", "by-category", "text", "examples", "setup"]
    assert page.text.count("The gap went from ") == 3
    assert "KL with a linear curriculum" in page.text
    assert "learning_rate" in page.text
    assert "trl-modality train --config kl.yaml --seed 1" in page.text
    assert sum(tag == "article" for tag, _ in page.elements) == 3 + 12
    assert sum(tag == "img" for tag, _ in page.elements) == 12
    assert len(page.ids) == len(set(page.ids))
    assert files.html.stat().st_size < 1.5 * 2**20


def test_it_is_one_file_that_runs_nothing(rich):
    files, page = rich
    html = files.html.read_text()
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form", "input"})
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    addresses = [value for _, a in page.elements for name, value in a.items() if name in ("src", "href", "srcset")]
    assert all(value.startswith(("data:image/", "#")) for value in addresses)
    assert "url(" not in html
    assert "@import" not in html
    assert "http://" not in html
    assert "https://" not in html
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_it_can_be_read_by_those_who_do_not_see_it(rich):
    _, page = rich
    assert next(a for tag, a in page.elements if tag == "html")["lang"] == "en"
    assert all(a.get("alt") for tag, a in page.elements if tag == "img")
    svgs = [a for tag, a in page.elements if tag == "svg"]
    assert all(a["role"] == "img" and set(a["aria-labelledby"].split()) <= set(page.ids) for a in svgs)
    assert all(a.get("scope") in ("col", "row") for tag, a in page.elements if tag == "th")
    tables = [a for tag, a in page.elements if tag == "table"]
    regions = [a for _, a in page.elements if a.get("role") == "region"]
    assert len(tables) == len(regions)
    assert all(a["aria-label"] and a["tabindex"] == "0" for a in regions)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_files_beside_the_page(tmp_path):
    runs = [MadeEvaluation(tmp_path / name, BEFORE, rows=30, text={"gsm8k": (0.4, 0.1)}).write() for name in "ab"]
    files, _ = written(runs, tmp_path)
    folder = tmp_path / "page"
    assert files.markdown == folder / "report.md"
    names = {path.name for path in files.figures}
    assert {"gap.png", "accuracy_1.png", "accuracy_2.png", "gap_by_category_2.png", "text_regret.png"} <= names
    assert all(path.parent == folder and Image.open(path).size[0] == 840 for path in files.figures)
    text = files.markdown.read_text()
    assert set(re.findall(r"\]\(([^)]+\.png)\)", text)) == names
    assert text.count("\n| ---") == 1 + len(runs)


def test_the_same_runs_give_the_same_bytes(tmp_path):
    run = rich_run(tmp_path / "kl", "KL", "two_stage", True, 1, examples=1)
    contents = []
    for folder in ("first", "second"):
        files = write_report([run], tmp_path / folder / "report.html")
        contents.append([path.read_bytes() for path in (files.html, files.markdown, *files.figures)])
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in contents[0][0]


def test_where_it_goes_by_default(tmp_path):
    run = MadeEvaluation(tmp_path / "stock", BEFORE, rows=30).write()
    files = write_report([run])
    assert files.html == run / "report.html"
    assert files.markdown == run / "report" / "report.md"
    assert write_report([run]).html.read_bytes() == files.html.read_bytes()  # its own files are no part of the run
    with pytest.raises(ValueError, match=r"`output` must be an \.html file"):
        write_report([run], tmp_path / "report")


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&lt;\x00\x1b\u202e\ud800</style></svg>`|$x$"


def hostile_run(tmp_path):
    """A run in which every text is hostile."""
    folder = tmp_path / "hostile"
    write_record(
        folder,
        HOSTILE,
        model=HOSTILE,
        command=HOSTILE,
        config={HOSTILE: HOSTILE, "list": [HOSTILE]},
        versions={HOSTILE: HOSTILE},
    )
    write_state(folder, history(steps=50))
    for name in ("before", "after"):
        made = MadeEvaluation(folder / "evals" / name, BEFORE, rows=40, examples=2, categories=(HOSTILE, "bar"))
        path = made.write() / "gap.json"
        record = json.loads(path.read_text())
        record |= {"model": HOSTILE, "dataset": HOSTILE}
        record["conditions"][HOSTILE] = record["conditions"]["blind"]
        for example in record["examples"]:
            example |= {"id": HOSTILE, "category": HOSTILE, "expected": HOSTILE}
            example["prompts"] = dict.fromkeys(example["prompts"], HOSTILE)
            for answer in example["answers"].values():
                answer |= {"text": HOSTILE, "answer": HOSTILE}
            example["answers"][HOSTILE] = example["answers"]["text_rich"]
        write_json(path, record)
    skill = TextSkill(HOSTILE, HOSTILE, {HOSTILE: accuracy_of([True, False])}, {})
    regret = TextRegret(HOSTILE, {HOSTILE: 0.5}, {HOSTILE: paired_difference([True, True], [True, False])})
    write_json(folder / "evals/after/text.json", TextResult(skill, regret).to_dict())
    return folder


def test_hostile_text_is_text(tmp_path):
    files, page = written([hostile_run(tmp_path)], tmp_path, title=HOSTILE)
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "script" not in page.tags
    assert sum(tag == "img" for tag, _ in page.elements) == 2
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    html = files.html.read_text(encoding="utf-8")
    assert not set(html) & set("\x00\x1b\u202e")
    assert html.count("</style>") == 1
    markdown = files.markdown.read_text(encoding="utf-8")
    assert "<" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


TEXT_FIELDS = {
    "run.json": ["name", "model", "command", "config.a", "versions.a", "note"],
    "gap.json": [
        "name",
        "model",
        "dataset",
        "settings.a",
        "baseline.name",
        "examples.0.id",
        "examples.0.category",
        "examples.0.expected",
        "examples.0.prompts.text_rich",
        "examples.0.prompts.vision_centric",
        "examples.0.answers.text_rich.text",
        "examples.0.answers.text_rich.answer",
        "examples.0.images.0",
    ],
    "text.json": ["name", "model", "regret.baseline"],
}
NAMED_FIELDS = {  # whose keys are texts of others too
    "run.json": ["config", "versions"],
    "gap.json": ["settings", "conditions", "nats", "groups.category", "baseline.conditions", "examples.0.answers"],
    "text.json": ["tasks", "regret.tasks"],
}


def inside(content, path):
    """The object or list that holds the last key of a path, and that key."""
    *keys, last = (int(key) if key.isdecimal() else key for key in path.split("."))
    for key in keys:
        content = content[key]
    return content, last


@pytest.mark.parametrize("number_of_runs", [1, 2])
@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "\"onload=alert(1) '", "</style><b>", "{{ 7 * 191 }}"]
)
def test_every_text_of_others_is_escaped(tmp_path, hostile, number_of_runs):
    folder = tmp_path / "run"
    write_record(folder, "run", command="train", note="note", config={"a": "b"}, versions={"a": "b"})
    MadeEvaluation(folder / "evals/before", BEFORE, rows=40).write()
    after = MadeEvaluation(
        folder / "evals/after", AFTER, rows=40, examples=1, nats=(0.1, 0.2), text={"gsm8k": (0.4, 0.1)}
    ).write()
    difference = paired_difference([True, True], [True, False]).to_dict()
    content = json.loads((after / "gap.json").read_text())
    content["settings"]["a"] = "b"
    content["baseline"] = {"name": "before", "conditions": {"blind": difference}, "gap": None}
    write_json(after / "gap.json", content)
    for name, place in (("run.json", folder), ("gap.json", after), ("text.json", after)):
        path = place / name
        content = json.loads(path.read_text())
        for field in TEXT_FIELDS[name]:
            holder, key = inside(content, field)
            holder[key] = hostile.replace("/", "") if "images" in field else hostile
        for field in NAMED_FIELDS[name]:
            holder, key = inside(content, field)
            holder[key][hostile] = holder[key].get("text_rich", list(holder[key].values())[-1])
        write_json(path, content)
    runs = [folder]
    if number_of_runs == 2:
        runs.append(MadeEvaluation(tmp_path / "other", BEFORE, rows=40, name=hostile).write())
    files, page = written(runs, tmp_path, title=hostile)
    html = files.html.read_text(encoding="utf-8")
    assert page.tags.isdisjoint({"script", "b"})
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert hostile not in html.partition("</style>")[2] or hostile.startswith("{{")
    assert "1337" not in page.text
    assert page.text.count(hostile) > 20
    assert html.count("</style>") == 1


def test_huge_names_and_texts(tmp_path):
    name = "w" * 5000
    folder = tmp_path / "run"
    write_record(folder, name, model=name)
    path = (
        MadeEvaluation(folder / "evals/after", BEFORE, rows=30, examples=1, categories=(name, "b")).write()
        / "gap.json"
    )
    record = json.loads(path.read_text())
    record["examples"][0]["answers"]["text_rich"]["text"] = "line\n" * 100_000
    write_json(path, record)
    files, page = written([folder], tmp_path)
    assert "more characters)" in page.text
    assert files.html.stat().st_size < 400_000


def test_everything_is_right(tmp_path):
    all_right = dict.fromkeys(AFTER, 1.0)
    MadeEvaluation(tmp_path / "run/evals/before", all_right, rows=50).write()
    MadeEvaluation(tmp_path / "run/evals/after", all_right, rows=50).write()
    files, page = written([tmp_path / "run"], tmp_path)
    assert "The gap was 0.0 points before and 0.0 after" in page.text
    assert "not distinguishable" in page.text
    assert sections_of(files) == ["accuracy", "by-category", "setup"]


@pytest.mark.parametrize(
    ("entries", "sections"),
    [
        (history(steps=100), ["training", "setup"]),
        ([{"step": 1, "loss": 2.0}], ["training", "setup"]),
        ([], ["setup"]),
        ([{"step": 1, "loss": float("nan")}], ["setup"]),
    ],
    ids=["no evaluation", "one point", "nothing logged", "nothing finite"],
)
def test_a_run_without_evaluations(tmp_path, entries, sections):
    write_state(tmp_path / "run", entries)
    files, _ = written([tmp_path / "run"], tmp_path)
    assert sections_of(files) == sections


def test_evaluations_that_differ_are_named(tmp_path):
    MadeEvaluation(tmp_path / "run/evals/before", BEFORE, rows=50).write()
    MadeEvaluation(tmp_path / "run/evals/after", AFTER, rows=60).write()
    _, page = written([tmp_path / "run"], tmp_path)
    assert "before and after were not measured alike: rows 50 and 60." in page.text


def test_a_model_card_says_what_cannot_be_compared(tmp_path):
    for name, rows in (("before", 60), ("step-10", 30), ("step-20", 30), ("after", 60)):
        MadeEvaluation(tmp_path / f"run/evals/{name}", AFTER, rows=rows).write()
    MadeEvaluation(tmp_path / "other", AFTER, rows=50).write()
    note = "run: step-10 to step-20 (2 evaluations) and after were not measured alike: rows 30 and 60."
    between = "run and other were not measured alike: rows 60 and 50."
    files, page = written([tmp_path / "run", tmp_path / "other"], tmp_path)
    for said in (note, between):
        assert said in page.text
        assert said in files.notes
        assert files.markdown.read_text().count(markdown_text(said)) == 1
    assert markdown_text(note) in card_section(read_run(tmp_path / "run"))


def test_the_lead_calls_controls_what_they_are(rich):
    """`text_only` has the facts in words: what is right there is no guess."""
    assert "controls, without the image or with that of another row." in rich[1].text


def test_without_examples_after_training_there_are_those_before(tmp_path):
    MadeEvaluation(tmp_path / "run/evals/before", BEFORE, rows=30, examples=1).write()
    MadeEvaluation(tmp_path / "run/evals/after", AFTER, rows=30).write()
    _, page = written([tmp_path / "run"], tmp_path)
    assert "From the evaluation before: 1 pair that" in page.text


def test_secrets_of_the_config_are_not_passed_on(tmp_path):
    write_record(tmp_path / "run", "run", config={"hub_token": "hf_secret", "eos_token": "</s>", "api_key": None})
    _, page = written([tmp_path / "run"], tmp_path)
    assert "hf_secret" not in page.text
    assert "(not shown)" in page.text
    assert "</s>" in page.text


def test_the_section_of_a_model_card(tmp_path):
    run = read_run(rich_run(tmp_path / "kl", "KL", "two_stage", True, 1, examples=0))
    section = card_section(run)
    assert section.startswith("## Modality gap\n\ntiny-llava: trained on a set of 8,000 rows")
    assert "|  | before | step-250 | after |" in section
    share = run.last.conditions["blind"]
    row = next(line for line in section.splitlines() if line.startswith("| blind accuracy"))
    assert f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f}) |" in row


def test_without_matplotlib(tmp_path):
    run = MadeEvaluation(tmp_path / "stock", BEFORE, rows=30).write()
    files = write_report([run])
    assert files.figures == []
    assert files.notes == ["No PNG files of the figures: they need matplotlib (pip install 'trl-modality[plot]')."]
    assert "<svg" in files.html.read_text()
    assert "![" not in files.markdown.read_text()
