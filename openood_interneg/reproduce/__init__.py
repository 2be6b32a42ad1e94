"""One paper's tables and figures: experiments, their cells, and the report."""
