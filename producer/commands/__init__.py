"""The subcommands of `routoo-producer`, one file each."""
