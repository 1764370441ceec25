"""The records everything else speaks in: frozen, validated, free of any library's rows."""
