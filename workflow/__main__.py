"""`python3 -m workflow`: submit and manage jobs, compare runs, download models."""

import sys

import workflow
from workflow.cli.bootstrap import ensure_packages

if __name__ == "__main__":
    ensure_packages(workflow.__path__[0], "workflow")
    from workflow.cli.main import main

    sys.exit(main())
