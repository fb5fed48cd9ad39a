#!/usr/bin/env bash
# H.264 with B-frames in an AVI file: AVI has no presentation times, and FFmpeg (PyAV 18.1.0) numbers the frames in the
# order they are decoded in. Frames come out in the right order, but their time stamps jump forth and back, so that a frame
# looked up by its time is another one. The same stream in mp4 has rising time stamps.
#
# Seen, eight frames:
#   mp4 rises: True
#   avi rises: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.3.5
cd "$folder"
venv/bin/python - 2>/dev/null <<'PY'
import av
import numpy as np

rises = {}
for name in ("mp4", "avi"):
    with av.open(f"clip.{name}", "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"bf": "2", "b-adapt": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(8):
            picture = np.full((64, 64, 3), 20 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())
    with av.open(f"clip.{name}") as file:
        frames = [(frame.pts, int(frame.to_ndarray(format="gray")[32, 32])) for frame in file.decode(video=0)]
    grey = [value for _, value in frames]
    assert grey == sorted(grey), "frames come out in the order they are shown in"
    times = [pts for pts, _ in frames]
    rises[name] = times == sorted(times)
    print(f"{name} rises: {rises[name]}")
assert rises == {"mp4": True, "avi": False}
PY
