"""`python -m roiservice` does what the command `roiservice` does."""

from roiservice.cli import main

main()
