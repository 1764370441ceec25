"""Views for terminals, made with rich."""
