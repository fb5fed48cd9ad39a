"""What decides the words of a study: scores, comparisons, what could be shown, and the answer in sentences."""
