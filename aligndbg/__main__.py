"""`python -m aligndbg`."""

import sys

from aligndbg.cli import main

sys.exit(main())
