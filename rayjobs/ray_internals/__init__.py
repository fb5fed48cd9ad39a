"""What this project uses of Ray that Ray does not promise to keep; nothing of it stands anywhere else.

    environment   variables Ray reads, loggers it writes to, the files of its token
    errors        texts and classes by which one failure of Ray is told from another
    controller    Tune's loop: how often it saves, what it passes on, ASHA's rungs
    tune_state    the files of a search's state, and the signal that ends a search
    groups        worker groups: their claim on the cluster's room, the trial they belong to

A release of Ray may rename any of this without a word: `tests/jobs/test_ray_internals.py` names each, and CI runs it
against the newest Ray too. Nothing is imported here, so that a command's help needs no Ray.
"""
