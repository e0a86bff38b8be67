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
# # Sweeping B and R: which pays more?
#
# A sweep over R is free: one run at the largest R contains all smaller ones. A sweep over B is a list, one over seeds
# another, and so are datasets. The experiment of this notebook is all of these beside every baseline and every peer:
#
# ```bash
# machbench run sweep_b_r
# ```
#
# The questions: what does another repetition buy, what do more buckets buy, and which is the better use of the same
# R · B outputs?

# %%
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, display

from bench import load_results
from bench.report.figures import build_figures

folder = Path("../results/reference/sweep_b_r")
df = load_results(folder)
hashed = df[df["B"].notna() & (df["status"] == "ok")].copy()
sizes = hashed.groupby("dataset")[["n_train", "n_labels", "seed"]]
sizes.agg({"n_train": "first", "n_labels": "first", "seed": "nunique"})

# %% [markdown]
# ## P@1 by B and R
#
# Per cent: the mean of the seeds and their standard deviation in points.


# %%
def grid(dataset: str, rows: pd.DataFrame) -> pd.DataFrame:
    """P@1 of a dataset: one row per R; per B the mean of the seeds and their standard deviation."""
    own = 100 * rows[rows["dataset"] == dataset].set_index(["R", "B"])["P@1"]
    cells = own.groupby(["R", "B"]).agg(["mean", "std"]).unstack("B").round(2)
    return cells.swaplevel(axis=1).sort_index(axis=1)


for dataset in hashed["dataset"].unique():
    display(dataset, grid(dataset, hashed))

# %% [markdown]
# The other methods, on the same points:

# %%
others = df[df["B"].isna() & (df["status"] == "ok")]
quality = 100 * others.groupby(["dataset", "method"])[["P@1", "P@3", "P@5"]].mean()
quality.round(2).sort_values(["dataset", "P@1"], ascending=[True, False])

# %% [markdown]
# ## Equal outputs, R · B
#
# Cells of the grid with the same number of outputs in all, so the same output parameters: few wide repetitions or many
# narrow ones. Every repetition also has an input layer of its own, which more repetitions multiply.

# %%
hashed["R·B"] = hashed["R"] * hashed["B"]
measured = ["P@1", "P@5", "params_output", "params_total", "fit_s"]
cells = hashed.groupby(["dataset", "R·B", "B", "R"])[measured].mean()
several = cells.groupby(["dataset", "R·B"]).filter(lambda rows: len(rows) > 1)
several.round(4)

# %% [markdown]
# ## What theory says of the same tables
#
# Two labels are confused when they share a bucket in every repetition. With random hashing that happens to a pair with
# probability $B^{-R}$, so $K(K-1)/2 \cdot B^{-R}$ pairs are expected; `unresolved_pairs` counts them in the tables
# used. Counts of the family `universal`, $(a x + b) \bmod p \bmod B$, scatter around that much more than independent
# pairs would: if $x$ and $x + d$ collide, most other pairs that lie $d$ apart do too ([theory](../docs/theory.md)).

# %%
seen = hashed[hashed["unresolved_pairs"] > 0][["dataset", "B", "R", "n_labels", "unresolved_pairs"]].copy()
seen = seen.astype({"B": float, "R": float, "n_labels": float, "unresolved_pairs": float})
pairs = seen["n_labels"] * (seen["n_labels"] - 1) / 2
seen["counted ÷ expected"] = seen["unresolved_pairs"] / (pairs * seen["B"] ** -seen["R"])
seen.groupby(["dataset", "B", "R"])["counted ÷ expected"].agg(["min", "mean", "max"]).round(2)

# %% [markdown]
# ## Is cost linear?
#
# Parameters are, exactly: the residual of a straight line through them is rounding.

# %%
for (dataset, B), rows in hashed.groupby(["dataset", "B"]):
    R, size = rows["R"].to_numpy(float), rows["params_total"].to_numpy(float)
    slope, rest = np.polyfit(R, size, 1)
    off = np.abs(slope * R + rest - size).max()
    print(f"{dataset}, B = {B:,}: {slope:,.0f} parameters per repetition, at most {off:.2g} off the line")

# %% [markdown]
# ## The figures of this question

# %%
for picture in build_figures(df, folder / "runs"):
    if picture.figure is not None and picture.name.startswith(("p1_against_r", "p1_against_output")):
        display(Image(picture.render("png"), width=720))
        print(picture.caption)
