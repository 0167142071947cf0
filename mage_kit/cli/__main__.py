"""python -m mage_kit.cli"""

from mage_kit.cli import main

main()
