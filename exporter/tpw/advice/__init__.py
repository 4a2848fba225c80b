"""What would save money, and how much, from the books of some weeks. Pure functions; nothing here sets anything."""
