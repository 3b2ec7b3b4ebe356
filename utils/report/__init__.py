"""Scores as people read them: files, tables, curves, panels, one page."""
