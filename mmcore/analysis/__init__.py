"""Statistics on results: intervals, and which settings mattered."""
