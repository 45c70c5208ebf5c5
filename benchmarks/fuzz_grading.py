"""
Hostile and random strings through `Grader`: no crash, none above the time limit, nothing executed.

    python benchmarks/fuzz_grading.py                     # 100,000 without math-verify, 10,000 formulas with it
    python benchmarks/fuzz_grading.py --symbolic 100000   # the long run

Strings are mutations of real answers, LaTeX, bombs, code and noise, from one seed. In this process an audit hook ends
the run at the first compiled text, process, socket or file opened for writing, except for the start of the worker,
which has its own hook. The strings of code would create a file, which the script looks for at the end.
"""

import argparse
import collections
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from trl_modality.evaluation.grading import symbolic
from trl_modality.evaluation.grading._symbolic_worker import is_refused
from trl_modality.evaluation.grading.grader import Grader


CANARY = Path(tempfile.gettempdir()) / f"fuzz_grading_canary_{os.getpid()}"
ANSWERS = [
    *("8", "-4", "1,234", "0.96", "5/18", "3:30 P.M.", "Rocky Port"),
    *("yes", "nonlinear", "(B)", "$14.40", "50%", "1 1/2"),
    *("Add 3 and 5.\n3 + 5 = 8\nThe answer is 8.", "mon=3,tue=4;7", "Answer: **B. Monday**", "#### 1234", "20 °C"),
    *(r"So \boxed{\frac{1}{2}}.", r"$x = \sqrt{2}$", "A" * 50, "1 hour and 15 minutes", "3 × 10^4", "½", "٣", "８"),
]
FORMULAS = [
    *("2x+3", "x^2-1", "(x-1)(x+1)", r"\frac{1}{\sqrt{2}}"),
    *(r"\sqrt{2}+1", r"\{1, 2\}", "(1, 2)", "x < 3", "5!", "2^{10}"),
    *(r"\sin(x)", r"\frac{\pi}{4}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    *(r"\int_0^1 x dx", r"\sum_{i=1}^{9} i", "f(x)"),
    *(r"\log_2(8)", r"x \in [1, 3)", "1/3", "0.5x", r"|x-1|"),
    *(r"\max(x,2)", r"\lim_{x\to 0} x", "3i+2", r"x_1=2,x_2=3"),
]
BOMBS = [
    *("9**9**9", "9^{9^{9^9}}", "10^{10^{10}}", "99999999!"),
    *("9!!!!!!", r"\int_0^1 x^{x^x} dx", "2^{2^{2^{2^{2^{2}}}}}"),
    *("1e999999999", "1e-999999999", "9" * 5000, "0." + "3" * 5000, "1/" * 300 + "1", "x^{" * 60 + "2" + "}" * 60),
    *(r"\frac{" * 80 + "1" + "}{2}" * 80, "(" * 150 + "x" + ")" * 150),
    *("{" * 500, r"\boxed{" * 300, "}" * 500, "1,234," * 900),
    *(r"\sum_{i=1}^{10^{12}} i^i", r"\prod_{n=1}^{10^9} n"),
    *("(x+y+z+1)^{5000}", r"\sqrt{" * 40 + "2" + "}" * 40, "1" * 190),
    *(r"\binom{10^9}{10^8}", r"\gamma(10^{10})", r"\operatorname{zeros}(9999,9999)", r"\lfloor 10^{10^{7}} \rfloor"),
]
CODE = [
    f"__import__('os').system('touch {CANARY}')",
    f"exec(\"open('{CANARY}','w')\")",
    f"f(__import__('os').system('touch {CANARY}'))",
    f"\\max(__import__('pathlib').Path('{CANARY}').touch(),1)",
    f"eval(compile('open(\"{CANARY}\",\"w\")','','exec'))",
    f"().__class__.__base__.__subclasses__(); open('{CANARY}','w')",
    *(r"\input{/etc/passwd}", r"\write18{touch x}"),
    *("x'); import os; os._exit(0); ('", "f(exit(1))", r"\operatorname{exit}(1)"),
]
NOISE = [
    *("\x00", "\ud800", "\udfff", "\u202e", "\u200b", "\ufdfa", "é", "🦆", "\n", "\r", "\t", " ", "−"),
    *("$", "\\", "{", "}", "^", "**"),
]
FORMS = ("Answer: {}", r"\boxed{{{}}}", "#### {}", "**{}**", "the answer is ({})")
CHOICES = ["Sunday", "Monday", "1 hour and 15 minutes", "8", "(x", "A"]


def mutated(text: str, random_: random.Random) -> str:
    """A text after a few cuts, doublings, splices and insertions; at most 30,000 characters."""
    for _ in range(random_.randrange(4)):
        position = random_.randrange(len(text) + 1)
        kind = random_.randrange(6)
        if kind == 0:
            text = text[:position] + random_.choice(NOISE) + text[position:]
        elif kind == 1:
            text = text[:position] + text[position + random_.randrange(1, 5) :]
        elif kind == 2:
            other = random_.choice(random_.choice((ANSWERS, FORMULAS, BOMBS, CODE)))
            text = text[:position] + other + text[position:]
        elif kind == 3:
            text = (text[:position] * random_.choice((2, 3, 50)) + text[position:])[:30_000]
        elif kind == 4:
            text = random_.choice(FORMS).format(text)
        else:
            sign = chr(random_.randrange(random_.choice((128, 0x110000))))
            text = text[:position] + sign + text[position:]
    return text[:30_000]


def plain_cases(count: int, random_: random.Random):
    for _ in range(count):
        text = mutated(random_.choice(random_.choice((ANSWERS, ANSWERS, FORMULAS, BOMBS, CODE, NOISE))), random_)
        expected = random_.choice(("8", "1/2", "Rocky Port", "3:30 P.M.", "B", "5 cm", "2x+3", "(1,2)"))
        yield text, expected, None
        if random_.random() < 0.2:
            yield text, "Monday", CHOICES


def formula_cases(count: int, random_: random.Random):
    """Cases that reach math-verify: drawn until so many do."""
    while count:
        source = random_.choices((FORMULAS, BOMBS, CODE), (12, 1, 1))[0]
        formula = mutated(random_.choice(source), random_).replace("\n", " ")
        text, expected = f"\\boxed{{{formula}}}", random_.choice(FORMULAS)
        seen = len(REACHED)
        yield text, expected, None
        count -= len(REACHED) > seen


REACHED: list[float] = []  # seconds that each comparison by the worker took, without its start
STARTS: list[float] = []


def watch_worker() -> None:
    compare, start = symbolic.SymbolicWorker.compare, symbolic.SymbolicWorker._start

    def timed_start(self):
        begin = time.perf_counter()
        start(self)
        STARTS.append(time.perf_counter() - begin)

    def timed_compare(self, answer, gold, time_limit):
        begin, before = time.perf_counter(), sum(STARTS)
        try:
            return compare(self, answer, gold, time_limit)
        finally:
            REACHED.append(time.perf_counter() - begin - (sum(STARTS) - before))

    symbolic.SymbolicWorker.compare, symbolic.SymbolicWorker._start = timed_compare, timed_start


def guard_process() -> None:
    def refuse(event, arguments):
        if event == "subprocess.Popen" and "_symbolic_worker.py" in str(arguments[1]):
            return
        # Pipes to the worker are opened for writing by number, and its errors go nowhere
        is_pipe = event == "open" and (isinstance(arguments[0], int) or arguments[0] == os.devnull)
        if not is_pipe and event != "os.kill" and is_refused(event, arguments):
            print("EXECUTED", event, str(arguments)[:200], file=sys.stderr, flush=True)
            os._exit(1)

    sys.addaudithook(refuse)


def run(name: str, cases, grader: Grader) -> None:
    hows, slowest, begin, count = collections.Counter(), (0.0, ""), time.perf_counter(), 0
    for text, expected, choices in cases:
        start, starts = time.perf_counter(), sum(STARTS)
        grade = grader(text, expected, choices)
        seconds = time.perf_counter() - start - (sum(STARTS) - starts)
        hows[grade.how] += 1
        count += 1
        slowest = max(slowest, (seconds, text[:60]))
    print(f"{name}: {count:,} strings in {time.perf_counter() - begin:.0f} s; by outcome {dict(hows.most_common())}")
    print(f"  slowest {slowest[0]:.3f} s ({slowest[1]!r}), limit {grader.time_limit} s", flush=True)
    if slowest[0] > grader.time_limit:
        raise SystemExit("above the time limit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="strings without math-verify")
    parser.add_argument("--symbolic", type=int, default=10_000, help="formulas that math-verify compares")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    Grader()("warm", "up")
    watch_worker()
    guard_process()
    run("plain", plain_cases(arguments.count, random.Random(arguments.seed)), Grader(tolerance=0.01))
    if arguments.symbolic:
        grader = Grader(symbolic=True, time_limit=1.0)
        run("symbolic", formula_cases(arguments.symbolic, random.Random(arguments.seed)), grader)
        print(f"  {len(REACHED):,} reached math-verify, slowest {max(REACHED):.3f} s; starts: {len(STARTS)}")
        pid = symbolic._shared.pid
        if pid and Path(f"/proc/{pid}/status").exists():
            peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line)
            print(f"  peak memory of the last worker: {int(peak.split()[1]) / 1024:.0f} MiB")
    if CANARY.exists():
        raise SystemExit(f"{CANARY} exists: a string was executed")
    print("nothing executed, no crash, none above the limit")


if __name__ == "__main__":
    main()
