"""Users' data made into columns, and columns made into what users know: numpy, Python values, Arrow."""
