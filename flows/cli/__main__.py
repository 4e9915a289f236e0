"""`python -m flows.cli`: the same command, for `torchrun`, which starts modules."""

from flows.cli.app import main

main()
