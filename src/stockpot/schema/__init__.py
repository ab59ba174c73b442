"""What the files that we exchange may hold, as rules that whoever reads or writes one shares."""
