"""From results to what people read: the ranking, the terminal, the HTML page."""
