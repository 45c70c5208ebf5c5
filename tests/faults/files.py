"""Files as people have them."""

import json
import os

from tests.faults.fault import Fault, Scene
from tests.testing.foreign_files import write_images
from tests.testing.tiny import picture
from trl_modality.cli import data_make as making
from trl_modality.cli.data import main as data
from trl_modality.data.importers import read_rows


READING = "in reading a file"
MAKING = "in data making"
HUMAN, GPT = {"from": "human", "value": "<image>\nRed?"}, {"from": "gpt", "value": "1"}
GOOD = {"id": "a", "image": "red.png", "conversations": [HUMAN, GPT]}


def read(*records, name: str = "x.json", text: str | None = None, **options):
    """Read a file with some records, or a text, beside two images."""

    def provoke(scene: Scene) -> None:
        write_images(scene.folder)
        path = scene.folder / name
        path.write_text(json.dumps(records) if text is None else text)
        os.symlink("/etc/hostname", scene.folder / "link.png")
        read_rows(path, **options)

    return provoke


def turns(*said: dict, **fields) -> dict:
    return {**GOOD, "id": "b", "conversations": list(said), **fields}


def _interrupted(scene: Scene) -> None:
    """Ctrl-C while the second of two files is read."""
    write_images(scene.folder)
    for name in ("one", "two"):
        (scene.folder / f"{name}.json").write_text(json.dumps([GOOD] * 3))
    made = making.write_dataset

    def interrupt(*args, **options):
        made(*args, **options)
        raise KeyboardInterrupt

    making.write_dataset = interrupt
    try:
        files = [str(scene.folder / f"{name}.json") for name in ("one", "two")]
        data(["make", str(scene.folder / "out"), "--from", "auto", "--file", *files])
    finally:
        making.write_dataset = made


def _questions_alone(scene: Scene) -> None:
    picture(0).save(scene.folder / "red.png")
    (scene.folder / "x.csv").write_text("image,question\nred.png,Red?\n")
    from trl_modality.cli.train import main as train

    words = ["--model_name_or_path", "x", "--dataset_name", str(scene.folder / "x.csv")]
    train([*words, "--output_dir", str(scene.output), "--bf16", "False"])


def _one_question(scene: Scene) -> None:
    """All rows ask the same, so that no test split can be held out."""
    write_images(scene.folder)
    records = [{**GOOD, "image": name} for name in ("red.png", "blue.png")] * 3
    (scene.folder / "x.json").write_text(json.dumps(records))
    out, file = str(scene.folder / "out"), str(scene.folder / "x.json")
    data(["make", out, "--from", "llava", "--file", file, "--test-share", "0.3"])


def _no_folder(scene: Scene) -> bool:
    return not (scene.folder / "out").exists()


FAULTS = [
    Fault(
        "a file in none of the known forms",
        READING,
        r"x.json is in none of the known forms. Its records have bild, frage. Looked for: .* `conversations` with",
        read({"frage": "?", "bild": "a.png"}),
    ),
    Fault("a file that is not JSON", READING, r"x.json is not valid JSON \(", read(text="{")),
    Fault(
        "a line that is not JSON", READING, "x.jsonl, line 2: it is not valid JSON", read(name="x.jsonl", text="{}\n{")
    ),
    Fault(
        "a line of CSV with too many fields",
        READING,
        r"x.csv, line 2: it has 3 fields, and the header 2 \(question, answer\)",
        read(name="x.csv", text="question,answer\na,b,c\n"),
    ),
    Fault(
        "a quotation mark in a CSV that opens a field to the end of the file",
        READING,
        r"x.csv, line 3: unexpected end of data. A quotation mark opens a field that is not closed",
        read(name="x.csv", text='question,answer\na,"5 inch\nb,c\n'),
    ),
    Fault(
        "messages in a table that are no list",
        READING,
        r"`messages` is a text, not a list of messages. In a table, write the list as JSON",
        read(name="x.csv", text="image,messages\nred.png,Red?\n"),
    ),
    Fault(
        "facts of a picture that only a later question shows",
        READING,
        r"record 0, id='a': it has facts in words, and no image in the question of an answer or before it. .*'last'",
        read({**GOOD, "facts": "red", "conversations": [{"from": "human", "value": "Hi"}, GPT, HUMAN, GPT]}),
    ),
    Fault("a file without a record", READING, "x.json has no record", read()),
    Fault(
        "images that are not there",
        READING,
        r"x.json: 2 images of 2 of 3 records \(66.7 %\) are not there: 'no.png' \(record 1, .*`--skip-missing`",
        read(GOOD, *[{**GOOD, "image": "no.png"}] * 2),
    ),
    Fault(
        "an image outside of the image root, by `..`, an absolute path or a symbolic link",
        READING,
        r"record 0, id='a': the image 'link.png' leads out of '.*' \(to '/etc/hostname'\). Name the folder",
        read({**GOOD, "image": "link.png"}),
    ),
    Fault(
        "an image on the web",
        READING,
        r"the image 'https://a.org/a.png' is on the web. Download the images once",
        read({**GOOD, "image": "https://a.org/a.png"}),
    ),
    Fault(
        "turns out of order",
        READING,
        r"1 of 2 records cannot be used. record 1, id='b': message 0 of `conversations`, of the assistant, comes",
        read(GOOD, turns(GPT, HUMAN)),
    ),
    Fault(
        "a role that nobody knows",
        READING,
        "message 0 of `conversations` has the role 'someone'. Known are",
        read(turns({"from": "someone", "value": "?"}, GPT)),
    ),
    Fault(
        "more images than places for them, or fewer",
        READING,
        r"`conversations` has 1 place for an image, and the record has 2 images. Give each image one place",
        read(turns(HUMAN, GPT, image=["red.png", "blue.png"])),
    ),
    Fault(
        "an answer that shows an image",
        READING,
        "an answer in `conversations` has a place for an image .*Take it out: a model answers in words",
        read(turns({"from": "human", "value": "Red?"}, {"from": "gpt", "value": "<image>"})),
    ),
    Fault(
        "the same fault in many records",
        READING,
        r"300 of 301 records cannot be used. record 1, .*; and 295 more: message 0 of `conversations`",
        read(GOOD, *[turns(GPT, HUMAN)] * 300),
    ),
    Fault(
        "facts in some records only",
        READING,
        "record 1, id='a': it has no facts in words, and others have",
        read({**GOOD, "facts": "It is red."}, GOOD),
    ),
    Fault(
        "questions without answers, given to `train`",
        "before the first step",
        "x.csv has questions .`prompt`. without answers, so there is nothing to learn. `trl-modality data transcribe`",
        _questions_alone,
    ),
    Fault(
        "a test share of rows that all ask the same",
        MAKING,
        r"no group of rows is small enough for a test split of 30.0% of 6 rows: 6 rows hang together",
        _one_question,
        "no folder, so that the same command can be given again",
        _no_folder,
    ),
    Fault(
        "Ctrl-C while files become a folder",
        MAKING,
        r"interrupted: .*out is as it was before, and nothing of this is kept",
        _interrupted,
        "no folder, so that the same command can be given again",
        _no_folder,
        KeyboardInterrupt,
    ),
]
