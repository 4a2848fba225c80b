"""What a consumption costs under a tariff, line by line as on a paper bill."""
