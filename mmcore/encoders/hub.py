"""Whether a published model can be had: in the Hugging Face hub's cache, or there, asked once and without patience.

transformers asks for half a minute, with retries, before it says that there is no network.
"""

from __future__ import annotations

import threading

from mmcore.errors import UsageError

TIMEOUT_S = 3.0
"""Until a connection is given up. Looking a name up has no limit of its own: all of it may take a second more."""
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


def is_cached(weights: str) -> bool:
    """Returns whether a model of the hub was downloaded before, in one file, so that nothing need be asked."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(weights, file) for file in ("config.json", *WEIGHTS_FILES)]
    return isinstance(found[0], str) and any(isinstance(path, str) for path in found[1:])


def check_hub(weights: str, name: str) -> None:
    """Raises a UsageError, within seconds, if a model of the hub is neither in the cache nor to be had.

    Args:
        weights: Its name there.
        name: What messages call the network.
    """
    if is_cached(weights):
        return
    problems: list[str] = []
    thread = threading.Thread(target=_ask, args=(weights, problems), daemon=True)
    thread.start()
    thread.join(TIMEOUT_S + 1)
    if thread.is_alive():
        problems = [f"no answer within {TIMEOUT_S + 1:g} s"]
    if problems:
        raise UsageError(
            f"the weights '{weights}' of {name} are not in the Hugging Face hub's cache and cannot be downloaded "
            f"({problems[0]}): set weights to the path of a folder with config.json and model.safetensors, copied from "
            "where there is a network, or to 'random'; size 'tiny' makes a small random one"
        )


def _ask(weights: str, problems: list[str]) -> None:
    """Asks for the model's description; adds what came instead of an answer."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(weights, "config.json"), timeout=TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 (each of the hub's HTTP libraries has errors of its own)
        problems.append(next(iter(str(error).splitlines()), type(error).__name__))
