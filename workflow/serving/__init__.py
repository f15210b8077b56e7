"""A trained model over HTTP: requests join and leave the running batch at every token.

May import inference, runs and all rooms below them, and training's preparation of a job.
"""
