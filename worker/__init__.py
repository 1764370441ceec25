"""The Celery workers: score, select, dispatch, and the tick that recovers what was lost."""
