"""Reads input rows, checks them and makes jobs of them, or lists their problems."""
