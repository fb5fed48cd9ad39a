"""Decoders: how one modality of a sample is read from raw files. One file per kind of medium, nothing else decodes."""

from mmcore.data.media.frames import Frames
from mmcore.data.media.image import ImageFile, PictureRules, read_image
from mmcore.data.media.numbers import Cells, Series
from mmcore.data.media.sound.audio import AudioFile, read_audio, read_sound
from mmcore.data.media.text import Text
from mmcore.data.media.timeline import Timeline
from mmcore.data.media.video import read_frames
from mmcore.data.media.window import Flow, Window, dense_flow, read_window
from mmcore.data.medium import CROPPED, POINTER_ADVICE, Decoded, Medium, MissingMedium, Note, RawFolder

__all__ = [
    "CROPPED", "POINTER_ADVICE", "AudioFile", "Cells", "Decoded", "Flow", "Frames", "ImageFile", "Medium",
    "MissingMedium", "Note", "PictureRules", "RawFolder", "Series", "Text", "Timeline", "Window", "dense_flow",
    "read_audio", "read_frames", "read_image", "read_sound", "read_window",
]  # fmt: skip
