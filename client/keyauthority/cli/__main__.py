"""`python -m keyauthority.cli` is `keyauthority`."""

from keyauthority.cli import main

main()
