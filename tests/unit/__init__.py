"""No socket, no sleep: seconds for all of them."""
