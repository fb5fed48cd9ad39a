#!/usr/bin/env bash
# Eight frames shown over nine seconds, with gaps (a screen recording, a dropped connection): decord 0.6.0 and OpenCV 4.12.0
# both report 1.4545 frames a second, FFmpeg's reading of the header, where 8 / 9 = 0.89 would be true. The common recipe
# "frame number = second * get_avg_fps()" then takes the frame of 0.2 s for second 2 and that of 5.2 s for second 4 (at both
# times the frame of 2.0 s is shown), and from second 6 on numbers that do not exist. Only the time stamps (get_frame_timestamp) tell what is shown when.
#
# Seen:
#   decord 1.4545 a second, OpenCV 1.4545, frames end at 9.0 s
#   second 2: frame 2 of 0.2 s; second 4: frame 5 of 5.2 s; second 6: frame 8 of 8 does not exist
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 opencv-python-headless==4.12.0.88 decord==0.6.0 numpy==2.2.6
cd "$folder"
venv/bin/python - <<'PY'
from fractions import Fraction

import av
import cv2
import numpy as np
from decord import VideoReader

TIMES_MS = [0, 100, 200, 1900, 2000, 5200, 5300, 9000]
with av.open("clip.mp4", "w") as file:
    stream = file.add_stream("libx264", rate=10)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
    stream.codec_context.time_base = Fraction(1, 1000)
    for time_ms in TIMES_MS:
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), "rgb24")
        frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
        file.mux(stream.encode(frame))
    file.mux(stream.encode())

clip = VideoReader("clip.mp4")
opencv = cv2.VideoCapture("clip.mp4").get(cv2.CAP_PROP_FPS)
starts = clip.get_frame_timestamp(range(len(clip)))[:, 0]
print(f"decord {clip.get_avg_fps():.4f} a second, OpenCV {opencv:.4f}, frames end at {starts[-1]:.1f} s")
numbers = {second: int(second * clip.get_avg_fps()) for second in (2, 4, 6)}
print(f"second 2: frame {numbers[2]} of {starts[numbers[2]]:.1f} s; second 4: frame {numbers[4]} of {starts[numbers[4]]:.1f} s; "
      f"second 6: frame {numbers[6]} of {len(clip)} does not exist")
assert abs(clip.get_avg_fps() - 1.4545) < 1e-3 and abs(opencv - 1.4545) < 1e-3
assert abs(starts[-1] - 9.0) < 1e-3 and numbers[6] >= len(clip)
PY
