#!/usr/bin/env bash
# A Parquet column of lists of texts, such as the options of questions, is written to CSV by DataFrame.to_csv as numpy
# prints arrays, with blanks between the texts and no commas. What is commonly used to read such a cell back,
# ast.literal_eval, takes that for one text in several parts: ['red' 'green'] is the list ['redgreen'], without an error.
# Rows that were made from lists of Python, not read from Parquet, have the commas and are read back right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import ast

import numpy as np
import pandas as pd
import pyarrow as pa

options = [["red", "green"], ["a dog", "a cat, asleep", "it's a cow"]]


def read_back(table: pd.DataFrame) -> list[list[str]]:
    table.to_csv("table.csv", index=False)
    return [ast.literal_eval(cell) for cell in pd.read_csv("table.csv")["options"]]


made = pd.DataFrame({"options": options})
made.to_parquet("table.parquet")
read = pd.read_parquet("table.parquet")
print(f"pandas {pd.__version__}, pyarrow {pa.__version__}, numpy {np.__version__}: options written to CSV, read back")
print(f"  made of lists: {read_back(made)}")
print(f"  read from Parquet: {read_back(read)}")
assert read_back(made) == options
assert read_back(read) == [["redgreen"], ["a doga cat, asleepit's a cow"]]
PYTHON
