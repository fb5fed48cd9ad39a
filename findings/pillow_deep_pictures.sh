#!/usr/bin/env bash
# Pillow 12.1.0 and pictures deeper than 8 bits: three valid files, three silent surprises.
# 1. A TIFF of 32-bit unsigned numbers opens in the signed mode "I": values from 2**31 on come out negative.
# 2. A 16-bit RGB PNG opens as 8 bits (the high byte is kept), while a 16-bit grey one keeps its 16 bits.
# 3. A PGM whose largest value is 4095 opens rescaled to 65535: the file's own numbers are gone.
#
# Seen:
#   uint32 4294967295 reads as -1
#   16-bit RGB opens as RGB (uint8), 16-bit grey as I;16 (uint16)
#   PGM value 4095 of 4095 reads as 65535
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==12.1.0 numpy==2.2.6 opencv-python-headless==4.12.0.88 tifffile==2025.10.16
cd "$folder"
venv/bin/python - <<'PY'
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

tifffile.imwrite("deep.tif", np.full((4, 4), 2**32 - 1, np.uint32))
value = int(np.asarray(Image.open("deep.tif"))[0, 0])
print(f"uint32 4294967295 reads as {value}")
assert value == -1

ramp = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096
cv2.imwrite("grey.png", ramp)
cv2.imwrite("colour.png", np.stack([ramp] * 3, axis=2))
colour, grey = Image.open("colour.png"), Image.open("grey.png")
kinds = (colour.mode, np.asarray(colour).dtype.name, grey.mode, np.asarray(grey).dtype.name)
print("16-bit RGB opens as {} ({}), 16-bit grey as {} ({})".format(*kinds))
assert kinds == ("RGB", "uint8", "I;16", "uint16"), kinds

Path("twelve.pgm").write_bytes(b"P5 1 1 4095\n" + (4095).to_bytes(2, "big"))
value = int(np.asarray(Image.open("twelve.pgm"))[0, 0])
print(f"PGM value 4095 of 4095 reads as {value}")
assert value == 65535
PY
