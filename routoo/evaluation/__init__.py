"""Grades answers, and measures how well a router did on graded answers."""
