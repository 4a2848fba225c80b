"""Published tokens per joule, to compare with: a data file, and the rows of it that are near.

Imported only where a server has a model and GPUs; a lookup reads the file and keeps the rows of that model.
"""
