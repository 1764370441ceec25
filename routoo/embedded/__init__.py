"""PostgreSQL and a broker from wheels, for machines where nothing is installed.

Each server belongs to a home folder, not to a process: whoever needs it starts it if it doesn't
run, and whoever leaves last stops it. Both listen on unix sockets only.
"""
