#!/usr/bin/env bash
# soxr 1.1.0 (Python): resampling digital silence held as int16 gives noise. Its integer path adds dither of one step, to
# silence too, so that a muted recording of all zeros is no longer all zeros after it. In floating point it stays silent.
# Whoever looks for muted recordings by `wave.any()` after resampling int16 finds none.
#
# Seen, 48 kHz to 16 kHz, 1 s of zeros:
#   int16: values [-1, 0, 1], 3733 of 16000 samples are not zero
#   float32: values [0.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet soxr==1.1.0 numpy==2.3.5
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import soxr

noisy = soxr.resample(np.zeros(48_000, np.int16), 48_000, 16_000)
silent = soxr.resample(np.zeros(48_000, np.float32), 48_000, 16_000)
print("int16: values", np.unique(noisy).tolist(), f"{np.count_nonzero(noisy)} of {len(noisy)} samples are not zero")
print("float32: values", np.unique(silent).tolist())
assert np.unique(noisy).tolist() == [-1, 0, 1]
assert np.count_nonzero(noisy) > 1000
assert not silent.any()
PY
