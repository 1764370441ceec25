"""From a file of rows to jobs: readers, checks and the list of everything that is wrong."""
