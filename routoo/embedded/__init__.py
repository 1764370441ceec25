"""Runs PostgreSQL and a broker from wheels, on machines where nothing is installed.

Each server belongs to a home folder, not to a process: the first process that needs it
starts it, and the last one stops it. Both listen on unix sockets only.
"""
