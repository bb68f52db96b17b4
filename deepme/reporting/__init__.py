"""The report: what a finished workspace came to, as one HTML file for people."""
