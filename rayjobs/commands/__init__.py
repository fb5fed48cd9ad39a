"""What the verbs do; the verbs themselves, thin click commands, stand in `rayjobs/`."""
