"""Does the jobs that providers answer through their batch APIs."""
