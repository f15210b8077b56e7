#!/usr/bin/env python3
"""Fine-tune a language model to score texts by the probability of one label against another."""

import sys

from workflow.cli.bootstrap import ensure_packages

if __name__ == "__main__":
    ensure_packages(__file__)
    from workflow.cli.run import main

    sys.exit(main("clf", __doc__))
