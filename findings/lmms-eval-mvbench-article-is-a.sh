#!/usr/bin/env bash
# lmms-eval's MVBench score takes the first letter from A to E that stands alone in an answer for the chosen one, small
# letters too. So every sentence with the article "a" before any other such letter chooses A, and an answer that is the
# right option's text word by word chooses nothing. An empty answer isn't wrong but left out: with it the accuracy of the
# other answers is that of all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import ast
import re
import string
from importlib.metadata import distribution

package = distribution("lmms-eval")
tree = ast.parse(package.locate_file("lmms_eval/tasks/mvbench/utils.py").read_text())
wanted = ("mcq_acc", "mvbench_process_results", "mvbench_aggregate_results")
own = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name in wanted]
names = {"re": re, "string": string}  # the module itself wants all of lmms-eval's dependencies
exec(compile(ast.Module(own, []), "utils.py", "exec"), names)

options = ["Left.", "Right.", "Up.", "It stands still."]


def scored(right: str, answer: str) -> dict[str, object]:
    return names["mvbench_process_results"]({"candidates": options, "answer": right}, [answer])["mvbench_accuracy"]


print(f"lmms-eval {package.version}, MVBench: answers to a question with the options {options}")
for right, answer, points in (
    ("Right.", "B", 1),
    ("Right.", "(B) Right.", 1),
    ("Right.", "Right.", 0),
    ("Left.", "It is a circle that moves right.", 1),
):
    score = scored(right, answer)["score"]
    print(f"  right is {right!r}: {answer!r} gets {score}")
    assert score == points
mean = names["mvbench_aggregate_results"]([scored("Right.", "B"), scored("Right.", "")])
print(f"  accuracy of one right and one empty answer: {mean}")
assert mean == 100.0
PYTHON
