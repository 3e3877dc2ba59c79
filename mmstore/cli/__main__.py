"""``python -m mmstore.cli``: the same as the command ``mmstore``."""

from mmstore.cli import main

main()
