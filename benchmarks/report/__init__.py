"""What is drawn from records: the trade-off figure and the tables. Torch-free."""
