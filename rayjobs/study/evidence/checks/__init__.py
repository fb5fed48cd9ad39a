"""The items of a study's checklist, by what they look at; each returns its state, and in words what shows it."""
