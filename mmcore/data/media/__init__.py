"""Decoders: how one modality of a sample is read from raw files. One file per kind of medium, nothing else decodes."""

from mmcore.data.media.audio import AudioFile, read_audio
from mmcore.data.media.base import Decoded, Medium, RawFolder
from mmcore.data.media.image import ImageFile, ImageFrames, read_image
from mmcore.data.media.text import Text

__all__ = [
    "AudioFile", "Decoded", "ImageFile", "ImageFrames", "Medium", "RawFolder", "Text", "read_audio", "read_image",
]  # fmt: skip
