"""The names of all files and folders of a results directory, in one place."""

from __future__ import annotations

TUNE_FOLDER = "tune"
"""Where Tune keeps its own state, in the search's folder."""


GROUP_FILE = "placement_group"
"""Names the placement group of a worker group that has started, for as long as it may stand."""


CLAIM_FILE = "claim"
"""Names a run's claim, for as long as it may stand."""


SNAPSHOTS = "snapshots"


HANDED_OVER = "handed-over"


SCHEDULE_FILE = "schedule.json"


CHECKPOINTS = "checkpoints"


PROGRESS_FILE = "progress.json"
"""The summary of a run, which it goes on from when it is started again."""


CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, which only the run itself needs."""


MANIFEST_FILE = "manifest.json"
"""`mmcore.training.checkpoint`'s, which would bring torch with it."""


COPY_FOLDER = "state-copy"


EXPERIMENT_FILE = "experiment.json"


RANKING_FILE = "ranking.json"


FORMAT_VERSION = 1


RUNGS_FILE = "rungs.json"


SEARCH_FILE = "search.json"
"""A finished search: every trial, and the best configuration."""


PLAN_FILE = "plan.json"
"""What a search was when it was started."""


FAILURE_FILE = "failure.json"
"""Why a run failed; its newest attempt removes it."""


PROCESS_FILES = "process-*.json"


ALIVE_FILES = "alive-*"


RESULT_FILE = "result.json"


CONFIG_FILE = "config.json"


PREDICTIONS_FILE = "predictions.npz"


SIZES_FILE = "group_sizes.json"
