"""One pool: every search and every final model of an experiment share the places of one Tune run.

stage     what the runs of a search, or of a row's final models, are
pool      which run is next: the order of work, the room there is, the budgets
pace      how long runs take, as far as is known
tune_run  the pool as Ray Tune sees it: a searcher, a scheduler and callbacks
storage   what the driver exchanges with object storage
"""
