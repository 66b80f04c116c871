"""`python -m aligndbg`."""

from __future__ import annotations

import sys

from aligndbg.cli.main import main

sys.exit(main())
