"""Turns prompts into feature vectors by a light language model, the backbone."""
