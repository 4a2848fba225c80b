"""``python -m tpw`` is ``tpw-exporter``."""

import sys

from tpw.cli import main

sys.exit(main())
