"""Jobs on clusters: submitted, listed, followed and cancelled; and models fetched for them."""

import sys

import workflow
from workflow.cli.bootstrap import ensure_packages

if __name__ == "__main__":
    ensure_packages(workflow.__path__[0], "workflow")
    from workflow.cli.main import main

    sys.exit(main())
