"""The Ray layer: the commands, and how runs, trials and searches are started, fed and recovered."""
