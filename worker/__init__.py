"""The Celery workers: scorers, dispatchers, the beat, and the supervisor of a local stack."""
