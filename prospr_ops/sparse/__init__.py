"""Networks that compute with the kept weights alone."""
