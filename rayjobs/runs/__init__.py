"""One training run, whoever started it: the job, the worker's body, the result."""
