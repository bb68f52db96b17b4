"""``python -m deepme`` is the same as ``deepme``."""

from deepme.cli import main

main()
