#!/usr/bin/env bash
# A clip from a phone held upright is stored lying, with a display matrix that says how to turn it. OpenCV 4.12.0 and
# decord 0.6.0 turn it, PyAV 18.1.0 hands out the stored picture and leaves `frame.rotation` to the caller (with the sign of
# a counterclockwise turn). One file, two orientations, no warning: a data set prepared with one and a model trained on
# the other do not fit.
#
# Seen, of a file of 96x64 stored pixels whose matrix says 90 degrees clockwise (height x width):
#   opencv 96x64, decord 96x64, PyAV 64x96 with rotation -90
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 opencv-python-headless==4.12.0.88 decord==0.6.0 numpy==2.2.6
cd "$folder"
venv/bin/python - <<'PY'
import struct
from pathlib import Path

import av
import cv2
import numpy as np
from decord import VideoReader

with av.open("clip.mp4", "w") as file:
    stream = file.add_stream("libx264", rate=10)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
    for _ in range(10):
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), "rgb24")))
    file.mux(stream.encode())
data = bytearray(Path("clip.mp4").read_bytes())
matrix = data.find(b"tkhd") + 44  # of the track header: what a camera writes when it is held upright
data[matrix : matrix + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0x400000, 0, 0x40000000)
Path("clip.mp4").write_bytes(data)

opencv = cv2.VideoCapture("clip.mp4").read()[1].shape[:2]
decord = VideoReader("clip.mp4")[0].shape[:2]
with av.open("clip.mp4") as file:
    frame = next(file.decode(video=0))
print("opencv {}x{}, decord {}x{}, PyAV {}x{} with rotation {}".format(*opencv, *decord, frame.height, frame.width, frame.rotation))
assert opencv == decord == (96, 64)
assert (frame.height, frame.width, frame.rotation) == (64, 96, -90)
PY
