#!/usr/bin/env bash
# Most tasks of lmms-eval include a file _default_template_yaml, whose name has no ending. The repository has these files;
# the wheel on PyPI has none of them, since it takes only files with known endings. So tasks such as nextqa and mvbench
# are there by name, and can't be loaded: a checkout of the repository is needed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import re
from importlib.metadata import distribution

package = distribution("lmms-eval")
tasks = package.locate_file("lmms_eval/tasks")
included = {
    each.parent / found[1]
    for each in tasks.rglob("*.yaml")
    if (found := re.search(r"^include:\s*(\S*_default_template_yaml)\s*$", each.read_text(), re.MULTILINE))
}
lacking = [each for each in included if not each.exists()]
print(f"lmms-eval {package.version}: {len(included)} templates are included by tasks, {len(lacking)} of them are missing")
print("  for example", min(each.relative_to(tasks) for each in lacking if "nextqa" in each.parts))
assert len(included) > 100 and len(lacking) == len(included)
PYTHON
