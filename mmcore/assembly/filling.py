"""Fits what a model fills in for stored NaN, on the rows its run trains on and on no others."""

from __future__ import annotations

from mmcore.config.schema import ProtocolConfig
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.split_report import check_filled
from mmcore.layers.filling import Filling
from mmcore.model import MultimodalModel


def fit_fillings(model: MultimodalModel, prepared: PreparedDataset, protocol: ProtocolConfig) -> None:
    """Fits what the model fills in on the samples that a run trains on.

    Samples that lack the modality altogether do not count.

    Raises:
        DataError: A column of theirs is empty.
    """
    if not model.fillings:
        return
    train = prepared.assign(protocol).train
    check_filled(prepared.columns_to_fill(), train, prepared.name)
    for name, filling in model.fillings.items():
        assert isinstance(filling, Filling)
        rows, present = prepared.read_modality(name)
        filling.fit(rows[train] if present is None else rows[train][present[train]])
