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
# # Reproduction: ours beside published values
#
# An experiment that names a paper (`paper: mach-pytorch`) gets one more table: our value, theirs, the difference and a
# verdict by a tolerance that was set beforehand. The published values, their source and what we do differently are
# kept in `configs/paper/`.

# %%
from pathlib import Path

import yaml
from IPython.display import Markdown, display

from bench import load_results
from bench.common.text_table import to_markdown
from bench.report.tables.reproduction import reproduction_table

folder = Path("../results/reference/reproduce_mach_pytorch")
df = load_results(folder)
paper = yaml.safe_load((folder / "paper.yaml").read_text())
list(paper)

# %% [markdown]
# ## Ours, theirs, verdict

# %%
table = reproduction_table(df, folder)
display(Markdown(to_markdown(table)))

# %% [markdown]
# ## The spread behind each mean
#
# Ten random splits of the data. Theirs is one split, and which one is not stated; so read a difference beside the
# spread of ours.

# %%
own = df[df["status"] == "ok"]
shown = ["P@1", "P@3", "P@5"]
(100 * own.groupby(["dataset", "B", "R"])[shown].agg(["mean", "std", "min", "max"])).round(2).T

# %% [markdown]
# ## One change at a time
#
# What makes the difference? The ablation runs the same recipe with one setting changed, on split 0.

# %%
ablation = load_results("../results/reference/reproduce_mach_pytorch_ablation")
tried = ablation[ablation["status"] == "ok"].copy()
tried[shown] = (100 * tried[shown]).round(2)
tried[["dataset", "method", "B", "R", "epochs", "loss", "decoder", *shown]]

# %% [markdown]
# [docs/reproduction.md](../docs/reproduction.md) discusses what follows from it.
