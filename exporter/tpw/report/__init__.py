"""Reports: from the rows of the books to tables, CSV, JSON and FOCUS. Pure functions of rows, a calendar and names."""
