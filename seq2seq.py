#!/usr/bin/env python3
"""Fine-tune a language model on prompts and completions, and write its predictions."""

import sys

from workflow.cli.bootstrap import ensure_packages

if __name__ == "__main__":
    ensure_packages(__file__)
    from workflow.cli.run import main

    sys.exit(main("seq2seq", __doc__))
