#!/usr/bin/env bash
# Ray Tune 2.60.0 with HyperOpt 0.3.0: the ends of an integer range are drawn half as often as the numbers between.
# The adapter turns tune.randint into a rounded float (the ends own half an interval each) and tune.lograndint into the
# same in log space. Tune's own sampler draws both evenly, so `search_alg=HyperOptSearch()` and no search algorithm search
# two different spaces. With a range of four numbers the difference is a factor of two.
#
# Seen, 4,000 draws of randint(1, 5):
#   HyperOptSearch  1: 0.17, 2: 0.33, 3: 0.34, 4: 0.16
#   Tune itself     1: 0.24, 2: 0.25, 3: 0.25, 4: 0.26
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'ray[tune]==2.60.0' hyperopt==0.3.0 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
from collections import Counter

import numpy as np
from ray import tune
from ray.tune.search.hyperopt import HyperOptSearch

DRAWS = 4000
searcher = HyperOptSearch({"n": tune.randint(1, 5)}, metric="m", mode="max", n_initial_points=2 * DRAWS, random_state_seed=0)
searched = Counter(searcher.suggest(str(number))["n"] for number in range(DRAWS))
state = np.random.RandomState(0)
domain = tune.randint(1, 5)
sampled = Counter(domain.sample(random_state=state) for _ in range(DRAWS))
for name, counts in (("HyperOptSearch ", searched), ("Tune itself    ", sampled)):
    print(name, ", ".join(f"{value}: {counts[value] / DRAWS:.2f}" for value in sorted(counts)))
assert searched[1] + searched[4] < 0.6 * (searched[2] + searched[3])
assert abs(sampled[1] + sampled[4] - sampled[2] - sampled[3]) < 0.1 * DRAWS
PY
