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
# A sweep over R is free: one run at the largest R has all smaller ones in it. A sweep over B is a list:
#
# ```bash
# machbench run quickstart methods.mach.B=64,256,1024 seeds=0,1,2
# ```
#
# The questions of this notebook: what does another repetition buy, what do more buckets buy, and which is the better
# use of the same R · B outputs?

# %%
from pathlib import Path

import numpy as np
from IPython.display import Image, display

from bench import load_results
from bench.figures import build_figures

folder = Path("../results/reference/quickstart")
df = load_results(folder)
hashed = df[df["B"].notna() & (df["status"] == "ok")].copy()

# %% [markdown]
# ## P@1 by B and R

# %%
grid = hashed.pivot_table(index="R", columns="B", values="P@1")
(100 * grid).round(2)

# %% [markdown]
# ## Equal outputs, R · B
#
# Cells of the grid with the same number of outputs in all, so the same output parameters: few wide repetitions or many
# narrow ones. Every repetition also has an input layer of its own, which more repetitions multiply.

# %%
hashed["R·B"] = hashed["R"] * hashed["B"]
several = hashed.groupby("R·B").filter(lambda rows: rows["B"].nunique() > 1)
several.sort_values(["R·B", "B"])[["R·B", "B", "R", "P@1", "P@5", "params_output", "params_total"]]

# %% [markdown]
# ## What theory says of the same tables
#
# Two labels are confused when they share a bucket in every repetition. With random hashing that happens to a pair with
# probability $B^{-R}$, so $K(K-1)/2 \cdot B^{-R}$ pairs are expected; `unresolved_pairs` counts them in the tables
# used. Counts of the family `universal`, $(a x + b) \bmod p \bmod B$, scatter around that much more than independent
# pairs would: if $x$ and $x + d$ collide, most other pairs that lie $d$ apart do too ([theory](../docs/theory.md)).

# %%
K = int(hashed["n_labels"].iloc[0])
seen = hashed[hashed["unresolved_pairs"] > 0][["B", "R", "unresolved_pairs"]].copy()
B, R = (seen[name].astype(float) for name in ("B", "R"))
seen["expected"] = K * (K - 1) / 2 * B**-R
seen["counted ÷ expected"] = seen["unresolved_pairs"].astype(float) / seen["expected"]
seen.sort_values(["B", "R"])

# %% [markdown]
# ## Is cost linear?
#
# Parameters are, exactly: the residual of a straight line through them is rounding.

# %%
for B, rows in hashed.groupby("B"):
    R, size = rows["R"].to_numpy(float), rows["params_total"].to_numpy(float)
    slope, rest = np.polyfit(R, size, 1)
    off = np.abs(slope * R + rest - size).max()
    print(f"B = {B:,}: {slope:,.0f} parameters a repetition, at most {off:.2g} off the line")

# %% [markdown]
# ## The figures of this question

# %%
for picture in build_figures(df, folder / "runs"):
    if picture.figure is not None and picture.name.startswith(("p1_against_r", "p1_against_output")):
        display(Image(picture.render("png"), width=720))
        print(picture.caption)
