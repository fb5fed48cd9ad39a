"""Pretrained weights into a network: all of them, or an error that lists what does not fit. Never a random start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcore.encoders.hub import check_hub, is_cached
from mmcore.errors import CheckpointError, UsageError

RANDOM = "random"
NUM_SHOWN = 8
WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts put the weights in what they save."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a weights file: a state dict as torch saves it, bare or in one of WRAPPERS.

    Raises:
        CheckpointError: The file is damaged, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (unpicklers raise whatever a damaged file makes them)
        raise CheckpointError(f"{path} can not be read as weights: {error}") from None
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no state dict")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_all(
    network: nn.Module,
    state: Mapping[str, Tensor],
    what: str,
    ignored: Sequence[str] = (),
    published: Callable[[str], str] = str,
) -> None:
    """Loads weights into every parameter and buffer of a network.

    Args:
        network: Gets them.
        state: Names as published.
        what: Where they come from, for messages.
        ignored: Prefixes of weights the network has no use for, a classifier's for example.
        published: Name in the network's state dict -> name in `state`.

    Raises:
        CheckpointError: Lists missing and unexpected names, and shapes that differ.
    """
    used = {key: value for key, value in state.items() if not key.startswith(tuple(ignored))}
    own = {published(key): value for key, value in network.state_dict().items()}
    shapes = [
        f"{key} {tuple(used[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in used and used[key].shape != own[key].shape
    ]
    raise_misfits(what, [key for key in own if key not in used], [key for key in used if key not in own], shapes)
    network.load_state_dict({key: used[published(key)] for key in network.state_dict()})


def from_transformers(
    network_class: Any, name: str, weights: str, unneeded: Sequence[str], settings: Mapping[str, Any] | None = None
) -> Any:
    """Returns one of transformers' networks with a checkpoint's weights, every one of them.

    Args:
        network_class: The network.
        name: What messages call it.
        weights: A name on the Hugging Face hub (downloaded at first use), or a folder as there.
        unneeded: Prefixes of published weights the network has no use for.
        settings: Passed on to `from_pretrained`.

    Raises:
        UsageError: There is no such folder, and the hub has no such model or cannot be reached.
        CheckpointError: Weights are missing, or are there that the network does not have.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers has no types for these
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    check_folder(weights, name)
    try:
        network, info = network_class.from_pretrained(
            weights,
            output_loading_info=True,
            # In the cache, it is not asked for anew: without a network that would take half a minute.
            local_files_only=Path(weights).exists() or is_cached(weights),
            ignore_mismatched_sizes=True,
            **(settings or {}),
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the weights '{weights}' of {name} can be neither read nor downloaded: give the path of a folder "
            f"with config.json and model.safetensors, or 'random' ({str(error).splitlines()[0]})"
        ) from None
    except Exception as error:  # noqa: BLE001 (a damaged file makes its reader raise whatever it likes)
        raise CheckpointError(f"the weights '{weights}' are damaged: {error}") from None
    unexpected = [key for key in info["unexpected_keys"] if not key.startswith(tuple(unneeded))]
    shapes = [str(entry[0]) for entry in info["mismatched_keys"]]
    raise_misfits(weights, sorted(info["missing_keys"]), sorted(unexpected), sorted(shapes))
    return network


def check_size(size: str, weights: str, published: str = "base") -> None:
    """Raises a UsageError if weights are to be loaded into another size than the published one."""
    if weights != RANDOM and size != published:
        raise UsageError(f"size '{size}' is for random weights alone, got weights '{weights}'")


def check_file(weights: str, where: str) -> None:
    """Raises a UsageError if `weights` is neither "random" nor a file; `where` tells where one can be had."""
    if weights != RANDOM and not Path(weights).is_file():
        raise UsageError(f"weights must be 'random' or the path of a file, and there is no {weights!r} here. {where}")


def check_folder(weights: str, name: str) -> None:
    """Raises a UsageError if `weights` is neither "random" nor a folder, nor a model the hub has or had.

    A name on the hub has one slash at most.
    """
    if weights == RANDOM or Path(weights).exists():
        return
    if not weights.startswith((".", "/", "~")) and weights.count("/") <= 1:
        check_hub(weights, name)
    else:
        raise UsageError(
            f"there is no folder '{weights}' of {name}'s weights here: give the path of one with config.json and "
            "model.safetensors, a name on the Hugging Face hub, or 'random'"
        )


def file_state(weights: str, where: str) -> dict[str, Tensor]:
    """Returns the tensors of a weights file; `where` tells in the message where it can be had.

    Raises:
        UsageError: There is no such file.
        CheckpointError: It is damaged.
    """
    check_file(weights, where)
    return read_state(Path(weights))


def raise_misfits(what: str, missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str] = ()) -> None:
    """Raises a CheckpointError that lists what of some weights does not fit, if anything."""
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:NUM_SHOWN])}{' …' if len(names) > NUM_SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"the weights '{what}' do not fit; " + "; ".join(problems))


def check_torchvision(network_name: str, weights: str) -> None:
    """Raises a UsageError if `weights` is neither "random", a file, nor a name torchvision publishes them under."""
    if weights == RANDOM or Path(weights).is_file():
        return
    from torchvision.models import get_model_weights

    names = [entry.name for entry in get_model_weights(network_name)]
    if weights not in names:
        known = ", ".join(names)
        raise UsageError(f"weights must be 'random', one of {known}, or the path of a file, got {weights!r}")


def torchvision_state(network_name: str, weights: str) -> Mapping[str, Any]:
    """Returns the weights of a file, or those torchvision publishes under a name (downloaded at first use).

    Raises:
        UsageError: It is neither a file nor such a name, or the download failed.
        CheckpointError: The file is damaged.
    """
    from torchvision.models import get_model_weights

    check_torchvision(network_name, weights)
    published = {entry.name: entry for entry in get_model_weights(network_name)}
    if weights not in published:
        return read_state(Path(weights))
    try:
        state: Mapping[str, Any] = published[weights].get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"the weights '{weights}' of torchvision's {network_name} could not be downloaded ({error}): give the "
            f"path of {published[weights].url}, downloaded elsewhere, or 'random'"
        ) from None
    return state
