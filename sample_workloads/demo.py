"""`make demo`: the main job on the embedded workload `digits`, command by command, into build/demo.

Each step is an ordinary `inferplan` command, printed before it runs, so that it can be typed again.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKLOAD = "sample_workloads/digits"
OUT = "build/demo"
STEPS = [
    ("Is the workload right?", f"validate {WORKLOAD}"),
    (
        "Measure every variant: latency by batch size in fresh processes, accuracy on 1,000 labelled digits",
        f"profile {WORKLOAD} --profile {OUT}/profile --time-budget 75s",
    ),
    (
        "Decide: the cheapest deployment that keeps p99 and accuracy",
        f"solve {WORKLOAD} --profile {OUT}/profile -o {OUT}/plan.yaml",
    ),
    ("Export it for Triton, checked as it is written", f"export triton {OUT}/plan.yaml -o {OUT}/triton"),
    ("Export it for compose", f"export compose {OUT}/plan.yaml -o {OUT}/compose"),
    ("Lint the exported repository, as you would any other", f"lint {OUT}/triton"),
    (
        "Run it here, open loop, and compare with what was predicted",
        f"run {OUT}/plan.yaml --duration 20s",
    ),
]
NEXT = [
    ("another promise", f"inferplan solve {WORKLOAD} --profile {OUT}/profile --set classes.web.accuracy.floor=0.985"),
    ("more traffic", f"inferplan solve {WORKLOAD} --profile {OUT}/profile --set classes.web.rate_rps=2000"),
    ("serve it (Open Inference Protocol)", f"inferplan serve {OUT}/plan.yaml"),
    ("your own models", "docs/workload.md, docs/stage-code.md"),
]


def main() -> int:
    """Run every step; the exit code of the first that fails, 4 (undecided) excepted."""
    command = Path(sys.executable).with_name("inferplan")
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    (ROOT / OUT).mkdir(parents=True)
    start = time.monotonic()
    worst = 0
    for title, arguments in STEPS:
        print(f"\n# {title}\n$ inferplan {arguments}", flush=True)
        code = subprocess.run([str(command), *shlex.split(arguments)], cwd=ROOT, check=False).returncode
        if code not in (0, 4):
            print(f"\nThe demo stopped: that command ended with exit code {code}.")
            return code
        worst = max(worst, code)
    print(f"\n# What was exported\n{tree(ROOT / OUT / 'triton', OUT + '/triton')}")
    print(f"\nDone in {time.monotonic() - start:.0f} s. What to type next, with {command.parent} in PATH:")
    for what, line in NEXT:
        print(f"  {what}:\n    {line}")
    return worst


def tree(root: Path, name: str, indent: str = "") -> str:
    """A directory as an indented tree."""
    lines = [f"{indent}{name}/"]
    for path in sorted(root.iterdir()):
        if path.is_dir():
            lines.append(tree(path, path.name, indent + "  "))
        else:
            lines.append(f"{indent}  {path.name}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
