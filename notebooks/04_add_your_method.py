# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Add your own output layer
#
# One Python file and one YAML file, in your own folder; no file of machbench is edited. Here the layer of
# [docs/add_a_method.md](../docs/add_a_method.md) is written, checked and compared on the synthetic data set `tiny`,
# which takes less than a minute.

# %%
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path("..").resolve()
mine = Path(tempfile.mkdtemp())


def machbench(*arguments: str) -> None:
    """`machbench ARGUMENTS` in the folder of your own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(command, cwd=mine, env=environment, capture_output=True, text=True)
    print(done.stdout[-3000:] + done.stderr[-1500:])
    assert done.returncode == 0


# %% [markdown]
# ## The files
#
# The layer, its settings and an experiment, read from the document so that all three stay the same.

# %%
document = (ROOT / "docs" / "add_a_method.md").read_text()
layer, *_ = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
settings, experiment, *_ = re.findall(r"```yaml\n(.*?)```", document, flags=re.DOTALL)
for name, text in {"narrow.py": layer, "narrow.yaml": settings, "mine.yaml": experiment}.items():
    (mine / name).write_text(text)
print(layer)

# %% [markdown]
# ## Does it keep the interface?

# %%
machbench("check", "narrow.yaml")

# %% [markdown]
# ## Beside the full softmax

# %%
machbench("run", "mine.yaml")

# %%
from bench import load_results

df = load_results(mine / "results" / "mine")
df[["method", "methods.narrow.rank", "P@1", "P@5", "params_output", "fit_s", "status"]]

# %% [markdown]
# The layer is a bottleneck: with rank 16 it has fewer parameters than the full softmax, as the table shows. For real
# labels put `dataset: icd10cm` into `mine.yaml`.
