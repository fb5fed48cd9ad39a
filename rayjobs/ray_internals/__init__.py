"""What this project uses of Ray that Ray does not promise to keep; nothing of it stands anywhere else.

    environment   variables Ray reads, loggers it writes to, the files of its token
    errors        texts and classes by which one failure of Ray is told from another
    controller    Tune's loop: what it saves, which processes it keeps, what it passes on
    signals       the signal that ends Tune's loop
    groups        worker groups: their claim on the cluster's room, the trial they belong to

A release of Ray may rename any of this without a word: `tests/jobs/test_ray_internals.py` names each, and CI runs it
against the newest Ray too. Nothing is imported here, so that a command's help needs no Ray.
"""
