"""Ray itself: joining or starting it, its machines, its signals."""
