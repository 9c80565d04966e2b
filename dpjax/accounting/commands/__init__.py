"""The commands of `python -m dpjax.accounting`."""
