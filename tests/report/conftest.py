"""The made-up `text.json` of `tests.testing.report_runs`, completed to what an evaluation writes."""

import json

import pytest

from tests.testing.report_runs import MadeEvaluation, write_json


@pytest.fixture(autouse=True, scope="session")
def whole_differences():
    """Add the counts that every difference on the same rows has, and that the made-up regrets leave out."""
    write_text = MadeEvaluation._write_text

    def write_whole(made):
        write_text(made)
        path = made.folder / "text.json"
        content = json.loads(path.read_text())
        for difference in content.get("regret", {}).get("tasks", {}).values():
            difference |= {"only_first": 0, "only_second": 0, "total": 150}
        write_json(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MadeEvaluation, "_write_text", write_whole)
        yield
