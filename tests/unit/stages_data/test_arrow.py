"""pyarrow does not import pandas to make arrays of lists, and finds it when it is needed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from llmpipe.stages.data.arrow import leave_out_pandas
leave_out_pandas()
import pyarrow as pa
table = pa.table({"a": ["x", None], "b": [1, 2]})
assert table.to_pylist() == [{"a": "x", "b": 1}, {"a": None, "b": 2}]
print("pandas" in sys.modules, len(table.to_pandas()))
"""


def test_pandas_is_left_out_until_it_is_asked_for() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "2"]
