#!/usr/bin/env bash
# One Ogg Vorbis file has two lengths. libsndfile (soundfile 0.14.0) reads back the 32,000 samples that were written;
# FFmpeg's own decoder (PyAV 18.1.0) gives 31,744 of the same file, 256 fewer at its end. FLAC and MP3 agree to the sample,
# and so do onsets in all three. Opus differs in rate instead: libsndfile answers at the rate the file was made from
# (16 kHz), FFmpeg at 48 kHz. Features cut by sample number from one reader do not fit labels made with the other.
#
# Seen:
#   FLAC    soundfile 32000 at 16000 Hz, PyAV 32000 at 16000 Hz
#   MP3     soundfile 32000 at 16000 Hz, PyAV 32000 at 16000 Hz
#   VORBIS  soundfile 32000 at 16000 Hz, PyAV 31744 at 16000 Hz
#   OPUS    soundfile 32000 at 16000 Hz, PyAV 96000 at 48000 Hz
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet soundfile==0.14.0 av==18.1.0 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PY'
import av
import numpy as np
import soundfile

wave = np.zeros(32_000)
wave[8_000:8_100] = 0.9 * np.hanning(100)
seen = {}
for name, container, subtype in [("FLAC", "FLAC", None), ("MP3", "MP3", None), ("VORBIS", "OGG", "VORBIS"), ("OPUS", "OGG", "OPUS")]:
    path = f"click.{name.lower()}"
    soundfile.write(path, wave, 16_000, format=container, subtype=subtype)
    read, rate = soundfile.read(path)
    with av.open(path) as file:
        num_samples = sum(frame.samples for frame in file.decode(audio=0))
        seen[name] = (len(read), rate, num_samples, file.streams.audio[0].rate)
    print(f"{name:7} soundfile {len(read)} at {rate} Hz, PyAV {num_samples} at {seen[name][3]} Hz")
assert seen["FLAC"] == seen["MP3"] == (32_000, 16_000, 32_000, 16_000), seen
assert seen["VORBIS"] == (32_000, 16_000, 31_744, 16_000), seen
assert seen["OPUS"] == (32_000, 16_000, 96_000, 48_000), seen
PY
