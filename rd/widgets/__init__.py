"""What one can move in a notebook: each board asks one function, which runs without a browser, for a page of HTML."""
