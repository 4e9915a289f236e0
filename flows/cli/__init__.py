"""The command line. Each module is one command or one group; what a command needs, it imports when it runs."""

from flows.cli.app import main

__all__ = ["main"]
