"""The rows of all tables: each module has TABLES, for every table a mapping from names to rows by data set.

A module is imported when a row of one of its tables is asked for, see `bioshare.train.experiments`.
"""
