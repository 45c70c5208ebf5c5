"""Check plane geometry problems against their own coordinates: facts, steps and answers are measured anew.

    python benchmarks/check_geometry.py --count 10000

Prints each error and the counts; exits with 1 if there is any. `tests/testing/geometry_check.py` does the measuring.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.testing.geometry_check import ambiguous, errors, leaks, sufficiency_errors
from trl_modality.problems.geometry.generate import TEMPLATES, plane_geometry
from trl_modality.problems.render_style import RenderStyle


def check(problem) -> Iterator[str]:
    """The errors of a problem."""
    yield from errors(problem)
    yield from sufficiency_errors(problem)
    yield from ambiguous(problem)
    yield from leaks(problem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--marks", type=int, default=8)
    options = parser.parse_args()
    wrong, kinds, answers = Counter(), Counter(), Counter()
    for index in range(options.count):
        problem = plane_geometry(index, options.seed, RenderStyle(marks=options.marks, distractors=index % 4))
        kinds[problem.meta["template"]] += 1
        answers[problem.answer] += 1
        for error in check(problem):
            wrong[problem.meta["template"]] += 1
            print(error)
    print(f"checked {options.count}, wrong {sum(wrong.values())} {dict(wrong)}")
    print(f"templates {len(kinds)} of {len(TEMPLATES)}, of each {min(kinds.values())} to {max(kinds.values())}")
    common = ", ".join(f"{answer}: {count}" for answer, count in answers.most_common(5))
    print(f"different answers {len(answers)}; most common {common}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
