"""The names of all files and folders of a results directory, in one place.

    results/
      ledger.jsonl                     every reading of test
      EXPERIMENT/
        experiment.json                what was asked for; written first
        ranking.json, report/report.html
        tune/                          Tune's own notes while it runs
        DATASET-METHOD[/fold-N]/
          plan.json                    the search as it was begun
          journal.jsonl                what happened in it, line by line: what it is resumed from
          search.json                  the finished search
          trial-001/, final-1/         one run each, see below
      train-DATASET-METHOD[/fold-N]/   of `train`
        train.json
        seed-0/                        one run
        seed-0/teachers/MODALITY/      a run that it learns from, where its method does
      STUDY/
        study.yaml                     what is wanted, by `compare new` and `compare add`
        lock.json, race.json           what was fixed before test was read; who was left out of later folds
        cells/                         laid out as an experiment, and in the folder of each row and fold:
          cell.json, finals.json       what it is of; which final models failed for good
          superseded/                  final models that later ones replaced
        compare.json, report.html, figures/, tables/

    a run/
      config.json, metrics.jsonl, progress.json, result.json, predictions.npz
      checkpoints/epoch-000003/        checkpoint.pt, then manifest.json
      failure.json, process-*.json, alive-*, placement_group, claim, train/    of its current attempt

Where results lie on object storage, `manifest.json` and `result.json` are pushed last: who finds one of them may rely
on what it speaks of.
"""

from __future__ import annotations

EXPERIMENT_FORMAT = 4
"""Format of what an interrupted experiment resumes from: plans, journals."""
READABLE_FORMATS = (1, 2, 3, EXPERIMENT_FORMAT)
"""Formats of the results that reports can read: results have not changed since the first."""

# An experiment

EXPERIMENT_FILE = "experiment.json"
RANKING_FILE = "ranking.json"
PAGE_FILE = "report.html"
TUNE_FOLDER = "tune"
"""Tune's own notes while an experiment runs, of no use to another command."""
LEDGER_FILE = "ledger.jsonl"

# A search

PLAN_FILE = "plan.json"
"""What a search was when it was started."""
SEARCH_FILE = "search.json"
"""A finished search: every trial, and the best configuration."""
RUNGS_FILE = "rungs.json"
JOURNAL_FILE = "journal.jsonl"
"""What happened in a search, line by line: what it is resumed from."""

# The folder of a `train` command

RUN_FILE = "train.json"

# A run

CONFIG_FILE = "config.json"
PROGRESS_FILE = "progress.json"
"""The summary of a run, which it continues when it is started again."""
RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.npz"
SIZES_FILE = "group_sizes.json"
"""Number of workers at each start of an elastic group."""
TEACHERS_FOLDER = "teachers"
"""Folder in a run's of the runs it learns from, where it trained them itself."""
CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, which only the run itself needs."""
MANIFEST_FILE = "manifest.json"
"""`mmcore.training.checkpoint`'s, which would bring torch with it."""
SNAPSHOTS = "snapshots"
HANDED_OVER = "handed-over"
SCHEDULE_FILE = "schedule.json"
"""Files of population-based training: weights kept for others, weights taken over, and the settings by epoch."""

# An attempt at a run

FAILURE_FILE = "failure.json"
"""Why a run failed; its newest attempt removes it."""
PROCESS_FILES = "process-*.json"
ALIVE_FILES = "alive-*"
GROUP_FILE = "placement_group"
"""Names the placement group of a worker group that has started, for as long as it may stand."""
CLAIM_FILE = "claim"
"""Names a run's claim on the cluster's room, for as long as it may stand."""
TRAIN_FOLDER = "train"
"""Ray Train's own notes in a run's folder, of no use to another attempt."""

NOTES = (FAILURE_FILE, GROUP_FILE, CLAIM_FILE)
"""Files an attempt at a run leaves for the next one to remove."""
LAST_FILES = ((MANIFEST_FILE,), (RESULT_FILE,))
"""Pushed to object storage when all others stand, in this order."""

# A study

STUDY_FILE = "study.yaml"
LOCK_FILE = "lock.json"
RACE_FILE = "race.json"
"""Which methods were left out of later folds, and after which."""
COMPARE_FILE = "compare.json"
CELLS = "cells"
"""Folder of a study's cells; each is a search and its final models, as `tune` leaves them."""
CELL_FILE = "cell.json"
"""What a cell is of; written before its search begins."""
FINALS_FILE = "finals.json"
"""Which final models of a cell failed for good, and why; not there where none did."""
SUPERSEDED = "superseded"
"""Folder of final models that later ones replaced; their readings of test stay in the ledger."""


def final_name(number: int) -> str:
    """Returns the name of the folder of a row's final model; the first is 1."""
    return f"final-{number}"
