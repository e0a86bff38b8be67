"""Decoding from 670 thousand to 50 million labels, each size in a process of its own, for `speed decode_scale`.

python -m mach.speed.decode_scale LABELS BUCKETS REPETITIONS     (one JSON line: seconds per point and peak bytes)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mach.decode.decoder import Decoder
from mach.hashing.families import hash_labels
from mach.speed.decode import peaked

N_POINTS, K, REPEATS = 64, 5, 5
# 335 labels per bucket, so B grows with the labels; then the sizes whose memory is of interest.
SIZES = [(670_091, 2000, 16), (2_680_364, 8000, 16), (10_050_000, 30_000, 16), (50_000_000, 20_000, 8)]
SIZES += [(50_000_000, 20_000, 32)]


def decode_scale() -> list[dict[str, Any]]:
    """Rows with the median seconds of decoding one of 64 peaked points, and the peak memory of the whole process.

    ratio: seconds of the first size divided by these, so labels may grow faster than it falls.
    """
    rows: list[dict[str, Any]] = []
    for n_labels, B, R in SIZES:
        command = [sys.executable, "-m", "mach.speed.decode_scale", str(n_labels), str(B), str(R)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        row = {"what": "decode_scale", "variant": f"K={n_labels:,} B={B:,} R={R}", **found}
        first = rows[0]["median_s"] if rows else found["median_s"]
        rows.append(row | {"ratio": first / found["median_s"]})
    return rows


def measure_size(n_labels: int, B: int, R: int) -> dict[str, Any]:
    """Decode 64 peaked points with one table, index included; dense and automatic decoding must agree."""
    lookup = hash_labels(n_labels, B, R)
    scores = peaked(lookup, B, N_POINTS)
    decoder = Decoder(lookup, B)
    started = time.perf_counter()
    decoder.prepare()
    index_s = time.perf_counter() - started
    _, expected = decoder.top_k(scores, K, method="dense")
    _, labels = decoder.top_k(scores, K)
    if (labels != expected).any():
        raise RuntimeError("dense and automatic decoding give different labels")
    seconds: dict[str, list[float]] = {"auto": [], "dense": []}
    for _ in range(REPEATS):
        for method, times in seconds.items():
            started = time.perf_counter()
            decoder.top_k(scores, K, method=method)
            times.append((time.perf_counter() - started) / N_POINTS)
    return {
        "median_s": statistics.median(seconds["auto"]),
        "dense_s": statistics.median(seconds["dense"]),
        "repeats_s": seconds["auto"],
        "index_s": index_s,
        "peak_host_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(json.dumps(measure_size(*(int(size) for size in sys.argv[1:4]))))
