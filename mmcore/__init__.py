"""Balanced multimodal learning in plain PyTorch: data, encoders, methods, the engine and the trainer."""
