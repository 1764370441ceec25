"""Views: ways to expect each model's quality from the features of a prompt."""
