"""Products, orders, and the work around them."""
