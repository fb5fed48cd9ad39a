"""Decoders: how one modality of a sample is read from raw files. One file per kind of medium, nothing else decodes."""

from mmcore.data.media.audio import AudioFile, read_audio
from mmcore.data.media.base import CROPPED, Decoded, Medium, Note, RawFolder
from mmcore.data.media.frames import Frames
from mmcore.data.media.image import ImageFile, PictureRules, read_image
from mmcore.data.media.numbers import Cells, Series
from mmcore.data.media.sound_track import read_sound_track
from mmcore.data.media.text import Text
from mmcore.data.media.timeline import Timeline
from mmcore.data.media.video import read_frames
from mmcore.data.media.window import Flow, Window, dense_flow, read_window

__all__ = [
    "CROPPED", "AudioFile", "Cells", "Decoded", "Flow", "Frames", "ImageFile", "Medium", "Note", "PictureRules",
    "RawFolder", "Series", "Text", "Timeline", "Window", "dense_flow", "read_audio", "read_frames", "read_image",
    "read_sound_track", "read_window",
]  # fmt: skip
