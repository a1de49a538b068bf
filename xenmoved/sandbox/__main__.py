"""`python -m xenmoved.sandbox`."""

import sys

from xenmoved.sandbox.main import main

sys.exit(main())
