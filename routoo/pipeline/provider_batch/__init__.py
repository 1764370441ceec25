"""Jobs that providers answer through their batch APIs."""
