#!/usr/bin/env bash
# Ray Tune 2.60.0 with HyperOpt 0.3.0: the point {"x": 0} of tune.choice([True, False, None, 0]) is tried as False. The
# adapter looks a point up among the choices by equality, and 0 == False in Python; likewise 1 and True, 1 and 1.0. Nothing
# is said. (A point whose option is a list or a mapping is not found at all, and ends in a ValueError.)
#
# Seen:
#   asked for 0, tried False
#   asked for None, tried None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'ray[tune]==2.60.0' hyperopt==0.3.0 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
from ray import tune
from ray.tune.search.hyperopt import HyperOptSearch

points = [{"x": 0}, {"x": None}]
searcher = HyperOptSearch(
    {"x": tune.choice([True, False, None, 0])}, metric="m", mode="max", points_to_evaluate=points, random_state_seed=0
)
tried = [searcher.suggest(str(number))["x"] for number in range(2)]
for point, value in zip(points, tried, strict=True):
    print(f"asked for {point['x']}, tried {value}")
assert tried[0] is False and tried[1] is None, tried
PY
