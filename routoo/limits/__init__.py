"""What an endpoint may be asked, counted over all processes that ask it."""
