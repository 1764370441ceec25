"""Writes a scorecard as one HTML page: no script, no font, no picture from elsewhere."""
