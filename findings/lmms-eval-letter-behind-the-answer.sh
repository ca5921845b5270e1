#!/usr/bin/env bash
# lmms-eval reads the letter out of an answer to a multiple-choice question with extract_mcq_answer (Video-MME and other
# tasks). Behind a phrase such as "the answer is" it takes each letter's first capital, and of these the last one: the
# option's own text counts, if it begins with a later letter. "The answer is B. Dancing" is D, even as "(B) Dancing".
# "B. Dancing" and "The answer is B" are B, so a model that says both the phrase and the text is scored differently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import importlib.util
from importlib.metadata import distribution

package = distribution("lmms-eval")  # without its dependencies only this file of it can be imported
file = package.locate_file("lmms_eval/tasks/_task_utils/mcq_extract.py")
spec = importlib.util.spec_from_file_location("mcq_extract", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
expected = {
    "B": "B",
    "B. Dancing": "B",
    "The answer is B": "B",
    "The answer is B. Dancing": "D",
    "The answer is (B) Dancing": "D",
    "The correct option is A: Cutting bread.": "C",
}
found = {answer: module.extract_mcq_answer(answer, choices=["A", "B", "C", "D"]) for answer in expected}
print(f"lmms-eval {package.version}, extract_mcq_answer:")
for answer, letter in found.items():
    print(f"  {answer!r} is {letter}")
assert found == expected
PYTHON
