"""Studies: methods x data sets x folds x seeds under one protocol, and what they say with which certainty."""
