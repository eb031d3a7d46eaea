"""Sources that make their records: reviews, and regexes from a grammar."""
