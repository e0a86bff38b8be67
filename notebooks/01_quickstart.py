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
# # Quickstart: what one experiment says
#
# `machbench run quickstart` trains MACH at three bucket counts beside the full softmax, the sampled softmax and the
# label-frequency floor on 46,881 ICD-10-CM codes. This notebook reads the results of such a run and trains nothing.
# It reads the reference results of this repository; set `RESULTS` to `../results` for those of your own machine.

# %%
import json
from pathlib import Path

from IPython.display import Image, Markdown, display

from bench import load_results
from bench.common.text_table import to_markdown
from bench.report.figures import build_figures
from bench.report.groups import grouped
from bench.report.tables import build_tables
from bench.report.verdict import verdict

RESULTS = Path("../results/reference")
folder = RESULTS / "quickstart"
df = load_results(folder)

# %% [markdown]
# ## The table
#
# One row per run and evaluation point. The first R repetitions of a trained MACH model are a MACH model of R
# repetitions, so a run is evaluated at every R; such rows name their run in `derived_from`.

# %%
df[["method", "B", "R", "P@1", "P@5", "params_output", "params_total", "fit_s", "derived_from"]]

# %% [markdown]
# Numbers are fractions, counts, bytes and seconds, and what was not measured is missing, never 0. What a column means
# is in [results/README.md](../results/README.md).

# %%
df[["params_total", "peak_host_bytes", "peak_gpu_allocated_bytes", "fit_s"]].notna().sum()

# %% [markdown]
# ## The answer in sentences
#
# The same sentences open the report. Every number is a mean over the seeds of rows of the table.

# %%
display(Markdown("\n".join(f"* {sentence}" for sentence in verdict(grouped(df)))))

# %% [markdown]
# ## The tables of a paper
#
# `machbench table quickstart` prints them; `--format latex` gives booktabs.

# %%
quality, cost = build_tables(df)
display(Markdown(to_markdown(quality)))

# %% [markdown]
# ## Linear cost, exponential resolution
#
# Parameters and seconds grow in a straight line with R, while the pairs of labels that share all their buckets, and so
# cannot be distinguished, fall by a factor of B with each repetition.

# %%
pictures = {picture.name: picture for picture in build_figures(df, folder / "runs")}
main = pictures["linear_cost_exponential_resolution"]
display(Image(main.render("png"), width=720))
print(main.caption)

# %% [markdown]
# ## Where it was measured
#
# Seconds and bytes belong to a machine. Each row names its environment.

# %%
for env_id in df["env_id"].unique():
    record = json.loads((RESULTS / "env" / f"{env_id}.json").read_text())
    print({name: record[name] for name in ("env_id", "cpu", "cores", "memory_bytes", "gpu", "python", "revision")})
