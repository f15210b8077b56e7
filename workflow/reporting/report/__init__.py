"""HTML pages: the report of a run, and the parts that comparisons share."""
