"""Figures as SVG, whose text stays text: shapes, and what is drawn of them."""
