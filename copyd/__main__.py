"""``python -m copyd``."""

import sys

from copyd.cli import main

sys.exit(main())
