"""The laptop's own MySQL, AWS endpoint and warehouse: the only package that knows that it is running locally."""
