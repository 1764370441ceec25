"""The backbone: a light language model that turns prompts into feature vectors."""
