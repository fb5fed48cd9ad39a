"""The page of the encoders is what the registry says."""

from __future__ import annotations

from places import ROOT

from mmcore.encoders import ENCODERS
from mmcore.encoders.page import own_encoders, page

PAGE = ROOT / "docs" / "encoders.md"


def test_the_page_is_up_to_date() -> None:
    assert page() == PAGE.read_text(), "write it anew: python -m mmcore.encoders > docs/encoders.md"


def test_every_encoder_has_its_settings_sizes_and_weights_on_it() -> None:
    text = page()
    assert {"bert", "clip", "i3d", "mlp", "resnet18", "small_conv", "temporal"} <= set(own_encoders())
    for name in own_encoders():
        section = text.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        assert "- Takes: " in section
        assert "- Pretrained weights: " in section
        assert all(f"| `{key}` | " in section for key in ENCODERS.get(name).Config.model_fields)
        assert "| input | D | parameters |\n|---|---|---|\n| " in section
    # ResNet18 without its classifier: 11,689,512 parameters less 512 * 1000 + 1000
    assert "| a picture, 3 × 224 × 224, size `18` | 512 | 11,176,512 |" in text
    assert "| `dropout` | number, at least 0, less than 1 | `0.1` | " in text
