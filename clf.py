#!/usr/bin/env python3
"""Fine-tune an encoder-decoder model to score texts by the logits of two label words."""

import sys

from workflow.cli.bootstrap import ensure_packages

if __name__ == "__main__":
    ensure_packages(__file__)
    from workflow.cli.run import main

    sys.exit(main("clf", __doc__))
