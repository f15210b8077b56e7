"""Processes: launch, rendezvous, communication, requests to stop.

May import config and core.
"""
