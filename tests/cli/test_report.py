"""`trl-modality report`: what it writes and says, and its errors."""

from tests.testing.report_runs import AFTER, BEFORE, MadeEvaluation, history, write_state
from trl_modality.cli import main


def made(tmp_path):
    MadeEvaluation(tmp_path / "run/evals/before", BEFORE, rows=60).write()
    MadeEvaluation(tmp_path / "run/evals/after", AFTER, rows=60).write()
    return tmp_path / "run"


def test_it_writes_beside_the_run(tmp_path, capsys):
    run = made(tmp_path)
    assert main(["report", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"wrote {run / 'report.html'} (" in said
    assert f"wrote {run / 'report' / 'report.md'} (" in said
    assert f"wrote {run / 'report' / 'gap.png'} (" in said
    assert "<h1>run</h1>" in (run / "report.html").read_text()


def test_file_and_title_of_ones_own(tmp_path):
    run = made(tmp_path)
    assert (
        main(
            [
                "report",
                str(run),
                str(run / "evals/before"),
                "--output",
                str(tmp_path / "new/a.html"),
                "--title",
                "Both",
            ]
        )
        == 0
    )
    assert "<h1>Both</h1>" in (tmp_path / "new/a.html").read_text()
    assert (tmp_path / "new/a/report.md").read_text().startswith("# Both\n")


def test_what_was_passed_over_is_said(tmp_path, capsys):
    write_state(tmp_path / "run/checkpoint-50", history(steps=50))
    (tmp_path / "run/trainer_state.json").write_text("{")
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "trainer_state.json could not be read and was passed over." in capsys.readouterr().out


def test_a_wrong_folder_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"trl-modality report: {tmp_path} is not the folder of a run or of an evaluation")
    assert error.count("\n") == 1
