"""Reports on results: an HTML page, and figures."""
