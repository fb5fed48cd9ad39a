"""What demos are made of: words, pictures, sounds and clips that tell a class more or less clearly.

All of it is constructed: how clearly each modality tells the class is set by hand, so that one learns fast and
holds the other back.

Shape legend: H and W pixels, T samples of a waveform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmcore.data.media.text import SPECIAL_TOKENS

NEUTRAL_WORDS = (
    "the", "a", "this", "that", "my", "your", "our", "it", "is", "was", "on", "in", "at", "to", "of", "and", "with",
    "for", "from", "here", "there", "now", "then", "today", "again", "morning", "evening", "street", "house", "train",
    "team", "game", "coffee", "music", "friend", "people", "world", "phone", "picture", "time", "day", "way",
)  # fmt: skip


CLASS_WORDS = (
    ("rain", "late", "broken", "queue", "cold", "lost"),
    ("great", "lovely", "perfect", "thanks", "brilliant", "best"),
    ("open", "report", "meeting", "station", "number", "list"),
    ("river", "forest", "stone", "bird", "cloud", "field"),
)


SIDE = 48


def card(name: str, imbalance: str) -> str:
    """Returns what a reader of a demo's result must know."""
    return (
        f"CONSTRUCTED demo in the layout of {name}: none of its samples are in it. Made so that {imbalance}: a ranking "
        "on it shows that the whole path runs, not which method is better."
    )


def samples(name: str, number: int, num_classes: int) -> Iterator[tuple[str, int, np.random.Generator]]:
    """Yields (id, label, generator) of a demo's samples: as many of each class, always the same."""
    base = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    for count in range(number):
        yield str(10**8 + base % 10**7 * 10 + count), count % num_classes, np.random.default_rng([base, count])


def write_vocab(directory: Path, classes: Sequence[str]) -> None:
    """Writes the small WordPiece vocabulary of the demo's sentences."""
    words = [word for words in CLASS_WORDS[: len(classes)] for word in words]
    tokens = [*SPECIAL_TOKENS, *NEUTRAL_WORDS, *words, "team", *"abcdefghijklmnopqrstuvwxyz"]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(dict.fromkeys(tokens)) + "\n")


def sentence(label: int, clarity: float, generator: np.random.Generator) -> str:
    """Returns 8 to 14 words; with probability `clarity` two of them tell the class, else none does."""
    words = generator.choice(NEUTRAL_WORDS, size=generator.integers(8, 15)).tolist()
    if generator.random() < clarity:
        for place in generator.choice(len(words), size=2, replace=False):
            words[place] = generator.choice(CLASS_WORDS[label])
    return " ".join(words)


def picture(label: int, num_classes: int, clarity: float, generator: np.random.Generator) -> np.ndarray:
    """Returns a noisy picture with a bright bar whose direction tells the class, (SIDE, SIDE, 3) uint8.

    Args:
        label: Class index.
        num_classes: How many directions there are.
        clarity: Probability that the direction is the class's; else it is drawn.
        generator: Draws all else.
    """
    if generator.random() >= clarity:
        label = int(generator.integers(num_classes))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle = np.pi * label / num_classes
    distance = x * np.sin(angle) - y * np.cos(angle) - generator.uniform(-6, 6)
    bar = 0.25 * np.exp(-((distance / 4) ** 2))
    tint = generator.uniform(0.7, 1.0, size=3)
    noisy = 0.35 + bar[..., None] * tint + 0.25 * generator.normal(size=(SIDE, SIDE, 3))
    picture: np.ndarray = np.clip(np.round(noisy * 255), 0, 255).astype(np.uint8)
    return picture


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 as a JPEG file."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)
