"""Measurements of what users run, in folders named like the rooms."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
T5_TINY = ROOT / "mount" / "models" / "t5-tiny"
"""The folder of a tokenizer that is always there."""
