"""Reports: from the rows of the books to tables, and to the formats of those who do the accounts.

Everything here is a function of what it is given: rows, a calendar, names. Reading the books, the clock and the command
line belong to others.
"""
