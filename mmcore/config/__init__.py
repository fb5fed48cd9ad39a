"""The configuration of a run: a passive schema, and what every section of it shares."""
