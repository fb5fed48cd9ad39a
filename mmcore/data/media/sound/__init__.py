"""Decoders of sound: by soundfile, by PyAV, and what headers state against what files hold."""
